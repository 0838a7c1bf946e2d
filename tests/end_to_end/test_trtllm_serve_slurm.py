"""Deployments that commands of TensorRT-LLM and Dynamo serve over several nodes, through Slurm, with the stand-in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import ROOT, Cluster
from tests.end_to_end.test_tensorrt_llm_slurm import ANSWER, ASK, ON_THE_HOST, SLURM, SOON, verdict_of
from tests.end_to_end.test_through_slurm import SHARED, User
from tests.supervisor.runs import wait_for
from trtdist.events import EventReader, Rung

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


@pytest.mark.long
@pytest.mark.parametrize(
    ("rank", "kind", "told"),
    [(1, "hang", "gen.1 never came up"), (0, "silent", "gen.1 got as far as 'answering'")],
)
def test_a_server_that_hangs_or_answers_nothing_is_never_ready(user: User, rank: int, kind: str, told: str) -> None:
    """One that answers nothing says of itself that it is well."""
    fault = {"server": "gen.1", "rank": rank, "kind": kind}
    came = submit(user, "disagg-2nodes.trtllm-serve.yaml", *SOON, faults=(fault,))
    assert came["code"] == 3, came["said"]
    verdict = verdict_of(user)
    assert verdict["state"] == "TIMEOUT" and told in verdict["reason"], verdict


@pytest.mark.long
def test_an_engine_that_dies_after_ready_behind_its_server(user: User) -> None:
    """The process stays; a harmless traceback in another log is no sign of anything."""
    traceback = {"server": "ctx.0", "rank": 1, "kind": "traceback"}
    dies = {"server": "gen.1", "rank": 0, "kind": "unhealthy", "tokens": 20}
    came = submit(user, "disagg-2nodes.trtllm-serve.yaml", faults=(traceback, dies))
    assert came["code"] == 0, came["said"] + user.crashes()
    assert "Traceback (most recent call last)" in (user.run_dir() / "logs" / "ctx.0.1.log").read_text()
    # Every second prompt goes to gen.1, which lives no longer than for twenty tokens.
    asked = ("client", "--prompt", "Go on", "--max-tokens", 30, "--timeout", 10)
    assert [user.trtdist(*asked).returncode for _ in range(2)].count(0) <= 1
    verdict = verdict_of(user)
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", "gen.1.0"), verdict
    assert "is there, but its engine is dead: since 10 s it answers with status 503" in verdict["reason"]


@pytest.mark.long
def test_a_server_that_is_killed_on_another_node_serves_again(user: User) -> None:
    """Its router has it by its address, and the run is READY again once a prompt has crossed it."""
    restart = ("generation_servers.restart.policy=on-failure", "router.discovery=static")
    came = submit(user, "disagg-2nodes.trtllm-serve.yaml", *restart)
    assert came["code"] == 0, came["said"] + user.crashes()
    ranks: Any = user.state(came["job_id"])["ranks"]
    node = next(rank["node"] for rank in ranks if rank["name"] == "gen.1.0")
    mine = "grep -lz TRTDIST_SERVER=gen.1 /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3"
    servers = f"for pid in $({mine}); do grep -qz 'bin/trtllm-serve$' /proc/$pid/cmdline && echo $pid; done"
    (pid,) = user.cluster.run("bash", "-c", servers, host=str(node)).stdout.split()
    user.cluster.output("kill", "-KILL", pid, host=str(node))
    events = EventReader(Path(came["run_dir"]) / "events")
    told: list[Rung] = []

    def again() -> bool:
        told.extend(record.event for record in events.poll() if isinstance(record.event, Rung))
        return [(rung.name, rung.rung) for rung in told].count(("gen.1", "canary")) == 2

    wait_for(again, 180, "gen.1 again")
    for _ in range(2):
        assert user.trtdist(*ASK).stdout.strip("\n") == ANSWER
    assert user.state(came["job_id"])["state"] == "READY"
    assert user.trtdist("down", came["job_id"]).returncode == 0
    assert user.left() == []
