"""Some cells of the matrix on nodes of a real Slurm: tasks of the head node and of another."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.end_to_end.slurm_user import EXAMPLE, SHARED, User
from tests.supervisor.runs import wait_for
from trtdist.events import EventReader, TaskStarted

NOTICED_S, CLEAN_S = 5.0, 30.0
SIGNALS = {"KILL": "-9", "STOP": "-19"}


@pytest.fixture
def user(cluster: Cluster) -> Iterator[User]:
    found = User(cluster)
    yield found
    found.trtdist("down")


def hit(user: User, name: str, fault: str) -> float:
    """Bring a deployment up, then cause a fault to one of its tasks where that runs."""
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--wait")
    assert done.returncode == 0, done.stderr
    records = EventReader(user.run_dir() / "events").poll()
    task = next(each.event for each in records if isinstance(each.event, TaskStarted) and each.event.name == name)
    user.cluster.output("kill", SIGNALS[fault], str(task.pid), host=task.host)
    return time.monotonic()


@pytest.mark.long
@pytest.mark.parametrize("name", ["nats", "etcd", "router", "front", "ctx.0.1", "gen.1.0"])
def test_a_killed_task_fails_the_run(user: User, name: str) -> None:
    hit_at = hit(user, name, "KILL")
    verdict = user.run_dir() / "verdict.json"
    wait_for(verdict.exists, NOTICED_S + CLEAN_S, "a verdict")
    told = json.loads(verdict.read_text())
    assert (told["state"], told["first"]["name"]) == ("FAILED", name), told
    wait_for(lambda: user.left() == [], CLEAN_S, f"{user.left()} to be gone")
    assert time.monotonic() - hit_at < NOTICED_S + 2 * CLEAN_S


@pytest.mark.long
@pytest.mark.parametrize("name", ["nats", "gen.1.0"])
def test_a_task_that_hangs_leaves_with_the_others(user: User, name: str) -> None:
    hit(user, name, "STOP")
    assert user.trtdist("down").returncode == 0
    assert user.state()["state"] == "STOPPED"
    wait_for(lambda: user.left() == [], CLEAN_S, f"{user.left()} to be gone")
