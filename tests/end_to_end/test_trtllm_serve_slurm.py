"""Deployments that commands of TensorRT-LLM and Dynamo serve over several nodes, through Slurm, with the stand-in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import ROOT, Cluster
from tests.end_to_end.test_tensorrt_llm_slurm import ANSWER, ASK, ON_THE_HOST, SLURM
from tests.end_to_end.test_through_slurm import SHARED, User

STANDIN = ROOT / "tests" / "standin"


@pytest.fixture
def user(cluster: Cluster) -> User:
    return User(cluster)


def submit(user: User, example: str, *settings: str, faults: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """Submit an example, each program of which finds the stand-in; what came of it."""
    path = [str(STANDIN / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    environ = {"PYTHONPATH": str(STANDIN), "PATH": ":".join(path), "STANDIN_FAULTS": json.dumps(faults)}
    changes = [f"container.env={json.dumps(environ)}", "model=some/model", *settings]
    given = [word for change in changes for word in ("--set", change)]
    done = user.trtdist("submit", SLURM / example, *SHARED, *ON_THE_HOST, *given, "--wait", "--json")
    found: dict[str, Any] = {"code": done.returncode, "said": done.stdout + done.stderr}
    return {**(json.loads(done.stdout) if done.returncode == 0 else {}), **found}


@pytest.mark.long
@pytest.mark.parametrize(
    ("example", "settings"),
    [
        ("disagg-2nodes.trtllm-serve.yaml", ()),
        ("disagg-2nodes.trtllm-serve.yaml", ("router.discovery=static",)),
        ("disagg-2nodes.dynamo.yaml", ()),
        ("monolithic-2nodes.tensorrt-llm.yaml", ("runtime=trtllm-serve", "launch=per_server")),
    ],
)
def test_each_example_serves(user: User, example: str, settings: tuple[str, ...]) -> None:
    told = submit(user, example, *settings)
    assert told["code"] == 0, told["said"] + user.crashes()
    assert user.trtdist(*ASK).stdout.strip("\n") == ANSWER
    assert user.trtdist(*ASK, "--via", "step").stdout.strip("\n") == ANSWER
    ranks: Any = user.state(told["job_id"])["ranks"]
    assert len({rank["node"] for rank in ranks}) == 2
    assert user.trtdist("down", told["job_id"]).returncode == 0
    assert json.loads((Path(told["run_dir"]) / "verdict.json").read_text())["state"] == "STOPPED"
    assert user.left() == []


@pytest.mark.long
@pytest.mark.parametrize("example", ["disagg-2nodes.trtllm-serve.yaml", "disagg-2nodes.dynamo.yaml"])
def test_a_server_without_room_on_another_node_fails_the_run(user: User, example: str) -> None:
    told = submit(user, example, faults=({"server": "gen.1", "rank": 0, "kind": "oom"},))
    assert told["code"] == 1, told["said"]
    verdict = json.loads((user.run_dir() / "verdict.json").read_text())
    events = [path.read_text() for path in sorted((user.run_dir() / "events").glob("*.jsonl"))]
    first = verdict["first"]
    assert (verdict["state"], first["name"], first["code"]) == ("FAILED", "gen.1.0", 1), "".join(
        [str(verdict), *events]
    )
    assert user.left() == []
