"""Deployments of TensorRT-LLM over several nodes, through Slurm, with the stand-in in the place of TensorRT-LLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import ROOT, Cluster
from tests.end_to_end.test_through_slurm import SHARED, User

SLURM = ROOT / "examples" / "slurm"
ON_THE_HOST = ("--set", "container.runtime=none", "--set", "container.image=null", "--set", "container.mounts=[]")
ASK = ("client", "--prompt", "The capital of France is", "--max-tokens", 6, "--temperature", 0)
ANSWER = " olive heron grove maple amber quartz"


@pytest.fixture
def user(cluster: Cluster) -> User:
    return User(cluster)


def submit(user: User, example: str, *faults: dict[str, Any]) -> dict[str, Any]:
    """Submit an example, each rank of which finds the stand-in; what came of it."""
    environ = {"PYTHONPATH": str(ROOT / "tests" / "standin"), "STANDIN_FAULTS": json.dumps(faults)}
    setting = ("--set", f"container.env={json.dumps(environ)}", "--set", "model=some/model")
    done = user.trtdist("submit", SLURM / example, *SHARED, *ON_THE_HOST, *setting, "--wait", "--json")
    found: dict[str, Any] = {"code": done.returncode, "said": done.stdout + done.stderr}
    return {**(json.loads(done.stdout) if done.returncode == 0 else {}), **found}


@pytest.mark.long
@pytest.mark.parametrize(
    "example",
    [
        "monolithic-2nodes.tensorrt-llm.yaml",
        "disagg-2nodes.tensorrt-llm.yaml",
        "disagg-2nodes-per-server.tensorrt-llm.yaml",
    ],
)
def test_each_example_serves(user: User, example: str) -> None:
    told = submit(user, example)
    assert told["code"] == 0, told["said"] + user.crashes()
    assert user.trtdist(*ASK).stdout.strip("\n") == ANSWER
    state = user.state(told["job_id"])
    ranks: Any = state["ranks"]
    assert len({rank["node"] for rank in ranks}) == 2
    assert user.trtdist("down", told["job_id"]).returncode == 0
    assert json.loads((Path(told["run_dir"]) / "verdict.json").read_text())["state"] == "STOPPED"
    assert user.left() == []


@pytest.mark.long
def test_a_rank_without_room_on_another_node_fails_the_run(user: User) -> None:
    told = submit(user, "monolithic-2nodes.tensorrt-llm.yaml", {"server": "srv.0", "rank": 5, "kind": "oom"})
    assert told["code"] == 1, told["said"]
    verdict = json.loads((user.run_dir() / "verdict.json").read_text())
    # Open MPI ends a rank whose neighbour over TCP has gone, and that may be noted as early.
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", "srv.0.5"), verdict
    assert "srv.0.5 failed: OutOfMemoryError" in (user.run_dir() / "logs" / "srv.0.5.log").read_text()
    assert user.left() == []
