"""Faults of nodes and networks under a whole deployment through a real Slurm."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.end_to_end.slurm_user import EXAMPLE, READY_S, SHARED, User
from tests.supervisor.runs import wait_for
from trtdist.events import Event, EventReader, Ready, Record, Rung, TaskExited, TaskStarted

# The first is the head node.
ON_TWO = (*SHARED, "--set", "slurm.extra_sbatch=['--nodelist=node[1-2]']")


@pytest.fixture
def user(own_cluster: Cluster) -> User:
    return User(own_cluster)


def times(records: list[Record], kind: type[Event], name: str) -> list[float]:
    """When the events of a kind about a name were."""
    return [record.time for record in records if isinstance(record.event, kind) and record.event.name == name]


def in_order(run: Path) -> None:
    """Fail if events of several nodes have another order than what led to them."""
    records = EventReader(run / "events").poll()
    ready = max(record.time for record in records if isinstance(record.event, Ready))
    for server in ("ctx.0", "ctx.1", "gen.0", "gen.1"):
        (started,), rungs = times(records, TaskStarted, f"{server}.0"), times(records, Rung, server)
        assert len(rungs) >= 5
        assert started < min(rungs) and max(rungs) < ready
        (exited,) = times(records, TaskExited, f"{server}.0")
        assert ready < exited


@pytest.mark.long
@pytest.mark.parametrize(("node", "seconds"), [("node2", 600), ("node2", -600), ("node1", 600), ("node1", -600)])
def test_a_clock_that_is_wrong_by_ten_minutes(user: User, node: str, seconds: int) -> None:
    user.cluster.admin("clock", node, str(seconds))
    assert abs(float(user.cluster.output("srun", f"-w{node}", "date", "+%s")) - time.time() - seconds) < 30
    done = user.trtdist("submit", EXAMPLE, *ON_TWO, "--wait")
    assert done.returncode == 0, done.stderr
    state = user.state()
    assert (state["state"], {rank["state"] for rank in state["ranks"]}) == ("READY", {"READY"})
    way = "ahead of" if (seconds > 0) == (node == "node2") else "behind"
    said = (user.run_dir() / "logs" / "supervisor.log").read_text()
    assert "the clock of node node2 is " in said and f" s {way} that of the head node" in said
    # It stays up, a prompt is answered, and what was stopped on request did not fail.
    assert user.trtdist("client", "--prompt", "The capital of France is", host="node3").stdout.strip()
    assert user.trtdist("down").returncode == 0
    state = user.state()
    assert state["state"] == "STOPPED"
    assert {rank["state"] for rank in state["ranks"]} == {"STOPPED"}
    in_order(user.run_dir())
    assert user.left() == []


@pytest.mark.long
def test_who_died_first_is_known_whatever_the_clocks_say(user: User) -> None:
    """On a node whose clock is behind, and others follow at once."""
    user.cluster.admin("clock", "node1", "600")
    assert user.trtdist("submit", EXAMPLE, *ON_TWO, "--wait").returncode == 0
    rank = next(rank for rank in user.state()["ranks"] if rank["name"] == "ctx.0.1")
    assert rank["node"] == "node1"
    user.cluster.output("kill", "-9", str(rank["pid"]), host="node1")
    verdict = json.loads(wait_for(lambda: _text(user.run_dir() / "verdict.json"), 60, "a verdict"))
    assert verdict["reason"] == "ctx.0.1 (step workers) was killed by SIGKILL"


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@contextmanager
def an_interface_that_leads_nowhere(*nodes: str) -> Iterator[None]:
    """Gives nodes an interface ib0 with an address that the others do not reach."""
    try:
        for number, node in enumerate(nodes, start=1):
            ip = ["ip", "-n", f"trtmini-{node}"]
            subprocess.run([*ip, "link", "add", "ib0", "type", "bridge"], check=True)
            subprocess.run([*ip, "addr", "add", f"10.88.0.{number}/24", "dev", "ib0"], check=True)
            subprocess.run([*ip, "link", "set", "ib0", "up"], check=True)
        yield
    finally:
        for node in nodes:
            subprocess.run(["ip", "-n", f"trtmini-{node}", "link", "delete", "ib0"], check=False)


@pytest.mark.long
def test_a_head_node_that_another_does_not_reach_is_named(user: User) -> None:
    with an_interface_that_leads_nowhere("node1", "node2"):
        done = user.trtdist("submit", EXAMPLE, *ON_TWO, "--wait", "--set", "network.interface=ib0")
    assert done.returncode == 1
    assert "node node2 cannot reach the head node at 10.88.0.1 port " in done.stderr
    assert "from 10.88.0.2 on ib0" in done.stderr
    assert user.left() == []


@pytest.mark.long
def test_a_run_is_followed_from_before_its_job_starts(user: User) -> None:
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--json", "--set", "slurm.extra_sbatch=[--hold]")
    told = json.loads(done.stdout)
    held = user.state(told["job_id"])
    assert (held["state"], held["slurm_job"]["phase"]) == ("PENDING", "waiting")
    assert "JobHeldUser" in user.trtdist("status").stdout
    words = user.cluster.argv(*user.words("logs", told["run_id"], "-f"))
    with subprocess.Popen(words, cwd=user.cluster.folder, stdout=subprocess.PIPE, text=True) as following:
        user.cluster.output("scontrol", "release", told["job_id"])
        wait_for(lambda: user.state()["state"] not in ("PENDING", "PREPARING", "STARTING"), READY_S, "READY")
        assert user.state()["state"] == "READY"
        assert user.trtdist("down", "disagg-2nodes").returncode == 0
        shown = following.communicate(timeout=60)[0]
        assert following.returncode == 0
    for name in ("supervisor", "nats", "etcd", "ctx.0.0", "gen.1.0", "router", "front", "canary"):
        assert f"{name} " in shown or f"{name}:" in shown or f"[{name}]" in shown, name
