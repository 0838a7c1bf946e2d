"""Nodes that an administrator takes away while a run is READY on them: set down, and drained."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.end_to_end.seen_run import SeenRun
from tests.end_to_end.slurm_user import EXAMPLE, SHARED, User
from tests.end_to_end.test_slurm_recovery import hosts, states, submitted
from tests.supervisor.runs import wait_for
from trtdist.events import Restarting, TaskStarted
from trtdist.services.envfile import read_env

NOTICED_S, CLEAN_S = 15.0, 60.0
# The first is the head node.
ON_TWO = (*SHARED, "--set", "slurm.extra_sbatch=['--nodelist=node[1-2]']")
WHY = "set down by root: bad fan"


@pytest.fixture
def user(own_cluster: Cluster) -> Iterator[User]:
    """On a cluster that leaves nodes down, and time between TERM and KILL, as most do."""
    with own_cluster.settings(ReturnToService=1, KillWait=30):
        yield User(own_cluster)


def node_state(user: User, node: str) -> str:
    return user.cluster.output("sinfo", "--noheader", f"--nodes={node}", "--partition=batch", "--format=%T")


@pytest.mark.long
@pytest.mark.parametrize("node", ["node1", "node2"])
@pytest.mark.parametrize("launch", ["mpi_world", "per_server"])
def test_a_node_that_is_set_down_fails_the_run(user: User, launch: str, node: str) -> None:
    """Slurm ends the job then, on all of its nodes at once."""
    assert user.trtdist("submit", EXAMPLE, *ON_TWO, "--set", f"launch={launch}", "--wait").returncode == 0
    run = user.run_dir()
    job = (run / "slurm.job").read_text().strip()
    user.cluster.admin("fail", "--down", node)
    verdict = run / "verdict.json"
    wait_for(verdict.exists, NOTICED_S, "a verdict")
    told = json.loads(verdict.read_text())
    assert (told["state"], told["exit_code"], told["reason"]) == ("FAILED", 1, f"job {job} lost {node} ({WHY})")
    asked = user.trtdist("why", "--all")
    assert f"first cause: job {job} lost {node} ({WHY})\n" in asked.stdout, asked.stdout
    assert f"node {node} is DOWN" in asked.stdout and "reason bad fan" in asked.stdout
    wait_for(lambda: user.left() == [], CLEAN_S, f"{user.left()} to be gone")
    assert user.job_state(job) in ("NODE_FAIL", "COMPLETING", "gone")
    assert user.state()["state"] == "FAILED"


@pytest.mark.long
@pytest.mark.parametrize("returns", [False, True], ids=["stays down", "returns"])
def test_servers_move_from_a_node_that_is_set_down(user: User, returns: bool) -> None:
    """Slurm takes the node from the job, which goes on and can start nothing there any more, also where Slurm takes it
    back into service at once since it answers."""
    with user.cluster.settings(ReturnToService=2 if returns else 1):
        moved_from_a_node(user, "which job {job} has lost" if returns else f"which is down ({WHY})")


def moved_from_a_node(user: User, why: str) -> None:
    run = submitted(user)
    head, second, spare = read_env(run / "resolved.env")["TRTDIST_NODES"].split()
    before = hosts(run)
    moving = {server for server, host in before.items() if host == second}
    assert len(moving) == 2
    user.cluster.admin("fail", "--down", second)
    wait_for(lambda: len(states(run)) > 2, 60, "the deaths to be told")
    wait_for(lambda: states(run).count(("READY", "")) > 1, 180, "READY again")
    after = hosts(run)
    assert after == {server: spare if server in moving else head for server in before}
    # Both at once, and each of them once.
    assert sorted(event.step for event in SeenRun(run).events(Restarting)) == sorted(moving)
    log = (run / "logs" / "supervisor.log").read_text()
    job = (run / "slurm.job").read_text().strip()
    assert f"moves from {second}, {why.format(job=job)}, to {spare}" in log
    assert user.trtdist("client", "--prompt", "The capital of France is", host=head).stdout.strip()
    down = user.trtdist("down")
    assert down.returncode == 0, down.stderr
    assert user.state()["state"] == "STOPPED"
    left = json.loads((run / "verdict.json").read_text())["left"]
    assert [each.partition(" on ")[2].split(",")[0] for each in left] == [second]
    assert [line for line in user.left() if not line.startswith("/tmp/trtdist-")] == []


@pytest.mark.long
def test_a_node_that_is_drained_stays_in_the_run(user: User) -> None:
    """Slurm starts no more jobs there; steps of one that has it go on, and new ones start."""
    run = submitted(user)
    _, second, _ = read_env(run / "resolved.env")["TRTDIST_NODES"].split()
    before = hosts(run)
    (server, *_) = [server for server, host in before.items() if host == second]
    user.cluster.admin("fail", "--drain", second)
    wait_for(lambda: node_state(user, second) == "draining", 30, node_state(user, second))
    assert user.trtdist("client", "--prompt", "The capital of France is", host="node1").stdout.strip()
    assert states(run) == [("STARTING", ""), ("READY", "")]
    (first,) = [task for task in SeenRun(run).events(TaskStarted) if task.name == f"{server}.0"]
    user.cluster.output("kill", "-9", str(first.pid), host=second)
    wait_for(lambda: states(run).count(("READY", "")) > 1, 180, "READY again")
    assert hosts(run) == before
    told = user.trtdist("why").stdout
    assert "the run goes on: it is READY, and has survived a death, which a restart followed\n" in told
    assert user.trtdist("down").returncode == 0
    assert (user.state()["state"], user.left()) == ("STOPPED", [])
