"""Deployments of TensorRT-LLM through the real command line, with the stand-in in the place of TensorRT-LLM."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.workplace import ROOT, Workplace
from tests.supervisor.runs import wait_for

STANDIN = ROOT / "tests" / "standin"
EXAMPLES = sorted((ROOT / "examples" / "single").glob("*.tensorrt-llm.yaml"))
DISAGGREGATED = ROOT / "examples" / "single" / "disaggregated-tp2-2x1.tensorrt-llm.yaml"
MONOLITHIC = ROOT / "examples" / "single" / "monolithic-4gpu.tensorrt-llm.yaml"
ASK = ("client", "--prompt", "The capital of France is", "--max-tokens", 6, "--temperature", 0)
ANSWER = " olive heron grove maple amber quartz"
END_S, STOP_S = 240, 20


@pytest.fixture
def gpus(place: Workplace) -> Workplace:
    """A place that has the stand-in, and four GPUs by their numbers."""
    place.environ |= {"PYTHONPATH": str(STANDIN), "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    return place


def faulty(place: Workplace, rank: str, kind: str, **more: Any) -> None:
    """Give a rank a fault."""
    server, _, number = rank.rpartition(".")
    place.environ["STANDIN_FAULTS"] = json.dumps([{"server": server, "rank": int(number), "kind": kind, **more}])


def fails(place: Workplace, topology: Path, *options: object, code: int = 1) -> dict[str, Any]:
    """Bring a deployment up that cannot be; its verdict."""
    front = place.start("up", topology, "--local", *options)
    printed, _ = front.communicate(timeout=END_S)
    verdict = place.verdict()
    assert front.returncode == code and verdict is not None, printed
    place.nothing_left()
    return verdict


def test_an_answer_crosses_context_and_generation_servers(gpus: Workplace) -> None:
    shown = gpus.up(DISAGGREGATED)
    assert "is READY" in shown
    assert gpus.trtdist(*ASK).stdout.strip("\n") == ANSWER
    status = gpus.trtdist("status").stdout
    assert "TensorRT-LLM 1.2.0+stand-in" in status
    assert {server["version"] for server in gpus.status()["servers"]} == {"1.2.0+stand-in"}
    for rank, device in (("ctx.0.0", 0), ("ctx.0.1", 1), ("gen.0.0", 0), ("gen.1.0", 0)):
        assert f"{rank} takes device {device}" in gpus.log(rank)
    assert "is down and nothing is left" in gpus.trtdist("down").stdout


def test_a_rank_without_room_is_the_first_cause(gpus: Workplace) -> None:
    faulty(gpus, "ctx.0.1", "oom")
    verdict = fails(gpus, DISAGGREGATED)
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", "ctx.0.1")
    assert verdict["last_lines"][-1].startswith("trtdist: ctx.0.1 failed: OutOfMemoryError: CUDA out of memory.")


@pytest.mark.long
@pytest.mark.parametrize("launch", ["mpi_world", "per_server"])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_each_example_comes_up(gpus: Workplace, example: Path, launch: str) -> None:
    gpus.trtdist("up", example, "--local", "--detach", "--set", f"launch={launch}")
    assert gpus.trtdist(*ASK).stdout.strip("\n") == ANSWER
    assert "is down and nothing is left" in gpus.trtdist("down").stdout
    assert gpus.verdict() == {**(gpus.verdict() or {}), "state": "STOPPED", "first": None}


@pytest.mark.long
@pytest.mark.parametrize(
    ("topology", "rank", "kind", "first", "told"),
    [
        (MONOLITHIC, "srv.0.0", "oom", "srv.0.0", "Failed to start engine: srv.0.0 failed: OutOfMemoryError: CUDA out"),
        (MONOLITHIC, "srv.0.2", "oom", "srv.0.2", "srv.0.2 failed: OutOfMemoryError: CUDA out of memory"),
        (EXAMPLES[2], "srv.0.0", "oom", "srv.0.0", "Executor worker returned error: CUDA out of memory"),
        (MONOLITHIC, "srv.0.0", "dies", "srv.0.0", "srv.0.0 failed: RuntimeError: CUDA error: an illegal memory"),
        (DISAGGREGATED, "gen.1.0", "dies", "gen.1.0", "gen.1.0 failed: RuntimeError: CUDA error: an illegal memory"),
        (EXAMPLES[2], "srv.0.0", "killed", "srv.0.0", "the engine's own worker process"),
        (MONOLITHIC, "srv.0.0", "unhealthy", "srv.0.0", "its engine is not healthy any more"),
    ],
)
def test_an_engine_that_dies(gpus: Workplace, topology: Path, rank: str, kind: str, first: str, told: str) -> None:
    """Whether it was READY by then or not: the canary gives each server its first tokens."""
    faulty(gpus, rank, kind, tokens=3)
    verdict = fails(gpus, topology)
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", first)
    said = "\n".join(verdict["last_lines"])
    # Whichever is first seen of a spawned worker: its process is gone, or its future has failed.
    assert told in said or "ended without a word" in said


@pytest.mark.long
def test_a_follower_that_is_killed_while_it_serves(gpus: Workplace) -> None:
    faulty(gpus, "ctx.0.1", "killed")
    verdict = fails(gpus, DISAGGREGATED)
    assert (verdict["state"], verdict["first"]["name"], verdict["first"]["signal"]) == ("FAILED", "ctx.0.1", 9)


@pytest.mark.long
@pytest.mark.parametrize(
    ("rank", "kind", "behind", "told"),
    [
        ("gen.1.0", "hang", "gen.1.0", "; gen.1.0 stands still, and the last line of its log is "),
        ("ctx.0.1", "hang", "ctx.0.1", "; ctx.0.1 is behind the others, and the last line of its log is 'Rank 1"),
        ("gen.0.0", "silent", "gen.0", "gen.0 got as far as 'answering'; a prompt through ctx.0 and gen.0 failed: "),
        ("ctx.0.0", "silent", "ctx.0", "; ctx.0, where it was then, had not answered a token of it; behind is ctx.0, "),
    ],
)
def test_an_engine_that_never_comes(gpus: Workplace, rank: str, kind: str, behind: str, told: str) -> None:
    """Its server or its rank is named, whoever else waits for it; of a silent one by the canary that it had."""
    faulty(gpus, rank, kind)
    verdict = fails(gpus, DISAGGREGATED, "--ready-timeout", 25, "--set", "canary.timeout=3", code=3)
    assert verdict["state"] == "TIMEOUT" and verdict["first"]["name"] == behind
    assert told in verdict["reason"]


@pytest.mark.long
def test_an_engine_that_hangs_is_named_while_others_wait(gpus: Workplace) -> None:
    """Of two ranks one never ends to load: its stack is there, and its last line in the verdict."""
    faulty(gpus, "ctx.0.1", "hang")
    options = ("--ready-timeout", 60, "--set", "timeouts.stall=8")
    verdict = fails(gpus, DISAGGREGATED, *options, code=3)
    assert verdict["state"] == "TIMEOUT" and "ctx.0 got as far as 'process'" in verdict["reason"]
    assert "the last line of its log is" in verdict["reason"]
    (run,) = gpus.runs()
    assert "in while_loading" in (run / "stacks" / "ctx.0.1.txt").read_text()
    told = gpus.trtdist("why").stdout
    assert "ctx.0  made no progress for" in told and "stacks/ctx.0.1.txt" in told


@pytest.mark.long
def test_a_deployment_that_loads_for_ever_can_be_stopped(gpus: Workplace) -> None:
    faulty(gpus, "ctx.0.1", "hang")
    front = gpus.start("up", DISAGGREGATED, "--local")
    wait_for(lambda: bool(gpus.runs()) and "Engine loaded" in gpus.log("gen.0.0"), END_S, "a server that has loaded")
    began = time.monotonic()
    assert "is down and nothing is left" in gpus.trtdist("down").stdout
    assert time.monotonic() - began < STOP_S
    front.wait(END_S)
    assert "ctx.0 is stopped while it loads" in gpus.log("ctx.0.0")


@pytest.mark.long
def test_a_traceback_is_no_failure(gpus: Workplace) -> None:
    faulty(gpus, "ctx.0.1", "traceback")
    gpus.up(DISAGGREGATED)
    assert "Traceback (most recent call last)" in gpus.log("ctx.0.1")
    assert gpus.status()["state"] == "READY"
    gpus.trtdist("down")


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model=/no/such/model", "Repo id must be in the form"),
        ("model=gated/model", "Cannot access gated repo"),
        (
            'servers.extra_engine_args={"max_seq_length": 5}',
            "no argument 'max_seq_length'; did you mean 'max_seq_len'?",
        ),
    ],
)
def test_what_the_engine_refuses(gpus: Workplace, change: str, told: str) -> None:
    verdict = fails(gpus, MONOLITHIC, "--set", change)
    assert verdict["state"] == "FAILED" and verdict["first"]["name"].startswith("srv.0.")
    assert told in verdict["last_lines"][-1]


@pytest.mark.long
def test_two_ways_for_a_cache_are_refused(gpus: Workplace) -> None:
    changes = ("--set", "launch=per_server", "--set", 'generation_servers.cache_transceiver_config={"backend": "NIXL"}')
    done = gpus.trtdist("up", DISAGGREGATED, "--local", *changes, code=2)
    assert "error[TRT2" in done.stderr and "cache_transceiver_config" in done.stderr
    assert gpus.runs() == []


def test_no_tensorrt_llm_is_told_before_anything_starts(place: Workplace) -> None:
    done = place.trtdist("up", MONOLITHIC, "--local", code=4)
    assert "has no tensorrt_llm" in done.stderr
    assert place.runs() == []


def commands_of(page: Path) -> list[list[str]]:
    """What a page says to run with trtdist, without what it runs in an allocation that is there."""
    blocks = re.split(r"\n\n(?!    )", page.read_text())
    here = [block for block in blocks if "    salloc " not in block]
    lines = [line.strip() for block in here for line in block.splitlines() if line.startswith("    trtdist ")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.long
def test_what_the_walk_through_says_can_be_run(gpus: Workplace) -> None:
    """On this machine as it is written; through Slurm, to the bytes that would be submitted."""
    original = ROOT / "tests" / "topology" / "imports" / "original"
    for name in ("single_node_config.yaml", "multi_node_config.yaml", "model.json"):
        shutil.copy(original / name, gpus.folder)
    (gpus.folder / "examples").symlink_to(ROOT / "examples")
    commands = commands_of(ROOT / "docs" / "tensorrt-llm.md")
    assert len(commands) > 15
    for command in commands:
        submitted = command[0] == "submit"
        # Somebody else may have the port 8000 of the example's configuration.
        more = {"submit": ["--dry-run"], "up": ["--set", "router.http.port=auto"]}.get(command[0], [])
        done = gpus.trtdist(*[word for word in command if word != "--wait"], *more)
        if command[0] == "client":
            assert "Annotated(data=" in done.stdout or done.stdout.strip(), command
        if submitted:
            assert "#SBATCH --nodes=2" in done.stdout
    assert gpus.status()["state"] == "STOPPED"
