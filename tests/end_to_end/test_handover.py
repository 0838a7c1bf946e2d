"""A run whose job nears its time limit hands over to the next, through a real Slurm, as a normal user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster import PYTHON, ROOT, Cluster
from tests.end_to_end.slurm_user import User

BENCHMARK = ROOT / "benchmarks" / "handover.py"


@pytest.fixture
def user(cluster: Cluster) -> User:
    return User(cluster)


@pytest.mark.long
def test_no_request_fails_of_a_hand_over(user: User) -> None:
    """Streams over NATS and requests over HTTP, from a node, while the next job takes over."""
    words = [PYTHON, str(BENCHMARK), "--json", "--folder", str(user.cluster.folder)]
    done = user.cluster.run(*words, host="node4", timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert (found["failed"], found["http_failed"]) == ([], [])
    assert found["heir"] != found["run"]
    assert found["verdict"]["state"] == "STOPPED"
    assert f"handed over to {found['heir']} (job " in found["verdict"]["reason"]
    assert (found["requests"] > 50, found["http_requests"] > 20, found["answers"]) == (True, True, 1)
    assert Path(user.cluster.folder).exists()
