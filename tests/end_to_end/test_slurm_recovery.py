"""Runs through a real Slurm that go on: on a spare node, and in a job that is queued again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.end_to_end.seen_run import SeenRun
from tests.end_to_end.slurm_user import User
from tests.supervisor.runs import wait_for
from trtdist.events import Restarting, RunState, TaskStarted
from trtdist.services.envfile import read_env

# Of two servers of a role one lies on the second node, with a whole node as spare.
SPARE = """\
name: spare
model: reference/tiny
engine: reference
launch: per_server
context_servers: {num_instances: 2, restart: {policy: on-failure, backoff: 2s, max: 10}}
generation_servers: {num_instances: 2, restart: {policy: on-failure, backoff: 2s, max: 10}}
router: {http: null}
slurm: {nodes: 2, spares: 1, gpus_per_node: 2, mem: 500, requeue: true}
"""


@pytest.fixture
def user(own_cluster: Cluster) -> User:
    return User(own_cluster)


def submitted(user: User, *settings: str) -> Path:
    path = user.cluster.folder / "cluster.yaml"
    path.write_text(SPARE)
    user.cluster.own(path)
    done = user.trtdist("submit", str(path), "--wait", *(word for each in settings for word in ("--set", each)))
    assert done.returncode == 0, done.stderr
    return user.run_dir()


def states(run: Path) -> list[tuple[str, str]]:
    return [(event.state, event.detail) for event in SeenRun(run).events(RunState)]


def hosts(run: Path) -> dict[str, str]:
    """Where each server runs now."""
    return {event.server: event.host for event in SeenRun(run).events(TaskStarted) if event.server}


@pytest.mark.long
def test_a_server_moves_to_a_spare_when_its_node_dies(user: User) -> None:
    run = submitted(user)
    before = hosts(run)
    head, second, _ = read_env(run / "resolved.env")["TRTDIST_NODES"].split()
    assert set(before.values()) == {head, second}
    on_second = {server for server, host in before.items() if host == second}
    user.cluster.admin("fail", second)
    wait_for(lambda: len(states(run)) > 2, 60, "the deaths to be told")
    wait_for(lambda: states(run).count(("READY", "")) > 1, 180, "READY again")
    after = hosts(run)
    assert {server for server, host in after.items() if host == second} == set()
    assert {after[server] for server in on_second} & {head} == set()
    assert {server: host for server, host in after.items() if server not in on_second} == {
        server: host for server, host in before.items() if server not in on_second
    }
    assert {event.step for event in SeenRun(run).events(Restarting)} == on_second
    assert "which is down (it does not respond), to" in (run / "logs" / "supervisor.log").read_text()
    assert user.trtdist("client", "--prompt", "The capital of France is", host=head).stdout.strip()
    user.cluster.admin("recover", second)
    assert user.trtdist("down").returncode == 0
    assert user.state()["state"] == "STOPPED"


@pytest.mark.long
def test_a_job_that_is_queued_again_goes_on_as_the_same_run(user: User) -> None:
    run = submitted(user)
    job = (run / "slurm.job").read_text().strip()
    user.cluster.output("scontrol", "requeue", job)
    # Slurm lets a job that is queued again wait for two minutes, until its old credentials have run out.
    wait_for(lambda: (run / "verdict.1.json").exists(), 300, "the next attempt")
    wait_for(lambda: states(run).count(("READY", "")) > 1, 180, "READY again")
    assert json.loads((run / "verdict.1.json").read_text())["state"] in ("INTERRUPTED", "FAILED")
    assert user.run_dir() == run
    state = user.state()
    assert (state["state"], {rank["state"] for rank in state["ranks"]}) == ("READY", {"READY"})
    assert user.trtdist("client", "--prompt", "The capital of France is", host="node1").stdout.strip()
    assert user.trtdist("down").returncode == 0
    assert user.left() == []


def preempt(user: User, seconds: int = 1) -> None:
    """Have a job of more weight take every node for so long."""
    urgent = ("--partition=urgent", "--nodes=4", "--exclusive", "--mem=0", "--output=/dev/null")
    user.cluster.output("sbatch", *urgent, f"--wrap=srun sleep {seconds}")


@pytest.mark.long
def test_a_preempted_job_goes_on_as_the_same_run_where_it_is_queued_again(user: User) -> None:
    run = submitted(user, "slurm.partition=yielding")
    job = (run / "slurm.job").read_text().strip()
    preempt(user)
    wait_for(lambda: user.job_state(job) == "PENDING", 60, f"its job to wait again: {user.job_state(job)}")
    wait_for(lambda: (run / "verdict.1.json").exists(), 300, "the next attempt")
    wait_for(lambda: states(run).count(("READY", "")) > 1, 180, "READY again")
    before = json.loads((run / "verdict.1.json").read_text())
    assert before["state"] == "INTERRUPTED"
    assert before["reason"].startswith(f"job {job} was queued again: another job preempted it, or ")
    assert user.run_dir() == run
    assert user.trtdist("client", "--prompt", "The capital of France is", host="node1").stdout.strip()
    assert user.trtdist("down").returncode == 0
    assert (user.state()["state"], user.left()) == ("STOPPED", [])


@pytest.mark.long
def test_a_preempted_job_ends_where_jobs_are_cancelled(user: User) -> None:
    run = submitted(user)
    job = (run / "slurm.job").read_text().strip()
    preempt(user)
    wait_for((run / "verdict.json").exists, 60, "the verdict")
    verdict = json.loads((run / "verdict.json").read_text())
    assert (verdict["state"], verdict["reason"]) == ("INTERRUPTED", f"job {job} was preempted by another job")
    wait_for(lambda: user.job_state(job) not in ("RUNNING", "COMPLETING"), 60, "the end of its job")
    assert user.job_state(job) in ("PREEMPTED", "CANCELLED", "gone")
    assert f"Nothing failed: job {job} was preempted by another job\n" in user.trtdist("why").stdout
    assert user.left() == []
