"""Deployments that TensorRT-LLM's own commands serve, with the stand-in in their place, on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.workplace import ROOT, UP_SECONDS, Workplace
from tests.supervisor.runs import wait_for
from trtdist.events import Restarting, Rung

STANDIN = ROOT / "tests" / "standin"
SINGLE = ROOT / "examples" / "single"
DISAGGREGATED = SINGLE / "disaggregated-tp2-2x1.trtllm-serve.yaml"
DYNAMO = SINGLE / "disaggregated-tp2-2x1.dynamo.yaml"
MONOLITHIC = SINGLE / "monolithic-4gpu.tensorrt-llm.yaml"
ONE_GPU = SINGLE / "monolithic-1gpu.tensorrt-llm.yaml"
AS_SERVED = ("--set", "runtime=trtllm-serve", "--set", "launch=per_server")
ASK = ("client", "--prompt", "The capital of France is", "--max-tokens", 6, "--temperature", 0)
ANSWER = " olive heron grove maple amber quartz"
END_S = 240


@pytest.fixture
def gpus(place: Workplace) -> Workplace:
    """A place that has the stand-in and its commands, and four GPUs by their numbers."""
    path = [str(STANDIN / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    place.environ |= {"PYTHONPATH": str(STANDIN), "CUDA_VISIBLE_DEVICES": "0,1,2,3", "PATH": ":".join(path)}
    return place


def faulty(place: Workplace, rank: str, kind: str, **more: Any) -> None:
    """Give a rank a fault."""
    server, _, number = rank.rpartition(".")
    place.environ["STANDIN_FAULTS"] = json.dumps([{"server": server, "rank": int(number), "kind": kind, **more}])


def fails(place: Workplace, topology: Path, *options: object, code: int = 1) -> dict[str, Any]:
    """Bring a deployment up that cannot be, or cannot stay; its verdict."""
    front = place.start("up", topology, "--local", *options)
    printed, _ = front.communicate(timeout=END_S)
    verdict = place.verdict()
    assert front.returncode == code and verdict is not None, printed
    place.nothing_left()
    return verdict


def mapped(pid: int) -> list[Path]:
    """The files that a process has mapped into its memory, none for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return []
    return [Path(line.split(maxsplit=5)[5]) for line in lines if line.count("/")]


def test_a_server_of_tensorrt_llm_answers(gpus: Workplace) -> None:
    gpus.trtdist("up", ONE_GPU, "--local", "--detach", *AS_SERVED)
    assert gpus.trtdist(*ASK).stdout.strip("\n") == ANSWER
    # Also that of the server, from which its launcher has taken what says so.
    segments = [path for pid in gpus.processes() for path in mapped(pid) if path.name.startswith("sm_segment")]
    assert segments and all(gpus.folder / "tmp" in path.parents for path in segments)
    assert "is down and nothing is left" in gpus.trtdist("down").stdout


@pytest.mark.long
def test_an_answer_crosses_the_router_of_tensorrt_llm(gpus: Workplace) -> None:
    shown = gpus.up(DISAGGREGATED)
    assert "is READY" in shown
    assert gpus.trtdist(*ASK).stdout.strip("\n") == ANSWER
    found = json.loads(gpus.trtdist("url", "--json").stdout)
    assert found["http"].startswith("http://127.0.0.1:") and found["nats"] is None and found["etcd"] is None
    told = [json.loads(line) for line in (gpus.runs()[-1] / "events" / "canary.jsonl").read_text().splitlines()]
    # Each server has answered by itself, and the router as often as its turns take to reach them all.
    passed = [event["generation"] for event in told if event["type"] == "canary_passed"]
    assert sorted(passed) == ["ctx.0", "gen.0", "gen.1", "router", "router"]
    assert "is down and nothing is left" in gpus.trtdist("down").stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("topology", "release"), [(MONOLITHIC, "1.0.0"), (ONE_GPU, "1.2.0"), (MONOLITHIC, "1.4.0"), (ONE_GPU, "1.0.0")]
)
def test_a_monolithic_server_is_asked_itself(gpus: Workplace, topology: Path, release: str) -> None:
    gpus.environ["STANDIN_RELEASE"] = release
    gpus.trtdist("up", topology, "--local", "--detach", *AS_SERVED)
    assert gpus.trtdist(*ASK).stdout.strip("\n") == ANSWER
    assert [service["name"] for service in gpus.status()["services"]] == ["canary"]
    load = gpus.trtdist("bench", "load", "--run", "latest", "--concurrency", 2, "--requests", 4, "--json")
    assert "over HTTP" in json.loads(load.stdout)["target"]
    assert "is down and nothing is left" in gpus.trtdist("down").stdout


@pytest.mark.long
def test_servers_are_found_in_etcd(gpus: Workplace) -> None:
    gpus.trtdist("up", DISAGGREGATED, "--local", "--detach", "--set", "router.discovery=etcd")
    assert gpus.trtdist(*ASK).stdout.strip("\n") == ANSWER
    assert "registration successful" in gpus.log("ctx.0.0") and "registration successful" in gpus.log("gen.1.0")
    assert gpus.trtdist("down").returncode == 0


@pytest.mark.long
@pytest.mark.parametrize("release", ["1.0.0", "1.2.0"])
@pytest.mark.parametrize("rank", ["ctx.0.0", "gen.1.0"])
def test_a_server_that_cannot_load_is_the_first_cause(gpus: Workplace, release: str, rank: str) -> None:
    """Also under a launcher that hides its end and stays."""
    gpus.environ["STANDIN_RELEASE"] = release
    faulty(gpus, rank, "oom")
    verdict = fails(gpus, DISAGGREGATED)
    assert (verdict["state"], verdict["first"]["name"], verdict["first"]["code"]) == ("FAILED", rank, 1)
    assert "CUDA out of memory" in gpus.log(rank)


@pytest.mark.long
def test_a_follower_that_cannot_load_is_waited_for_in_vain(gpus: Workplace) -> None:
    """It logs why and stays, and rank 0 waits for it (TensorRT-LLM issue 16342): only time tells."""
    faulty(gpus, "ctx.0.1", "oom")
    verdict = fails(gpus, DISAGGREGATED, "--ready-timeout", 30, code=3)
    assert verdict["state"] == "TIMEOUT" and "ctx.0 never came up" in verdict["reason"]
    assert "Failed to initialize executor on rank 1" in gpus.log("ctx.0.1")


@pytest.mark.long
@pytest.mark.parametrize("rank", ["ctx.0.1", "gen.0.0"])
def test_a_rank_that_is_killed_ends_the_run(gpus: Workplace, rank: str) -> None:
    faulty(gpus, rank, "killed", tokens=2)
    verdict = fails(gpus, DISAGGREGATED, "--ready-timeout", 40, code=1 if rank == "ctx.0.1" else 3)
    assert verdict["state"] == ("FAILED" if rank == "ctx.0.1" else "TIMEOUT")


@pytest.mark.long
def test_an_engine_that_dies_behind_its_server(gpus: Workplace) -> None:
    """The process stays and answers /health with 503."""
    faulty(gpus, "gen.1.0", "unhealthy", tokens=4)
    verdict = fails(gpus, DISAGGREGATED)
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", "gen.1.0")
    assert "is there, but its engine is dead: since 10 s it answers with status 503" in verdict["reason"]


@pytest.mark.long
def test_an_engine_that_answers_nothing_is_never_ready(gpus: Workplace) -> None:
    faulty(gpus, "gen.0.0", "silent")
    verdict = fails(gpus, DISAGGREGATED, "--ready-timeout", 25, "--set", "canary.timeout=3", code=3)
    assert verdict["state"] == "TIMEOUT" and "gen.0 got as far as 'answering'" in verdict["reason"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model=/no/such/model", "Repo id must be in the form"),
        ("model=gated/model", "Cannot access gated repo"),
        ('servers.extra_engine_args={"max_seq_length": 5}', "got invalid argument: max_seq_length"),
        ("model=some/model of mine", ""),
    ],
)
def test_what_the_engine_refuses(gpus: Workplace, change: str, told: str) -> None:
    """A name with blanks is none of it: no launcher takes the server's arguments apart."""
    gpus.environ["STANDIN_RELEASE"] = "1.0.0"
    if not told:
        gpus.trtdist("up", MONOLITHIC, "--local", "--detach", *AS_SERVED, "--set", change)
        assert gpus.trtdist("down").returncode == 0
        return
    verdict = fails(gpus, MONOLITHIC, *AS_SERVED, "--set", change)
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", "srv.0.0")
    assert told in gpus.log("srv.0.0")


@pytest.mark.long
@pytest.mark.parametrize("policy", ["round_robin", "least_loaded", "kv_prefix"])
def test_an_answer_crosses_dynamo(gpus: Workplace, policy: str) -> None:
    gpus.trtdist("up", DYNAMO, "--local", "--detach", "--set", f"router.policy={policy}")
    assert gpus.trtdist(*ASK).stdout.strip("\n") == ANSWER
    assert gpus.trtdist("client", "--via", "direct", "--format", "json").returncode == 0
    assert "is down and nothing is left" in gpus.trtdist("down").stdout


@pytest.mark.long
def test_monolithic_workers_of_dynamo(gpus: Workplace) -> None:
    as_workers = ("--set", "runtime=dynamo", "--set", "launch=per_server", "--set", "servers.num_instances=2")
    shares = (
        "--set",
        "servers.tensor_parallel_size=2",
        "--set",
        "servers.kv_cache_config.free_gpu_memory_fraction=0.4",
    )
    gpus.trtdist("up", MONOLITHIC, "--local", "--detach", *as_workers, *shares)
    assert gpus.trtdist(*ASK).stdout.strip("\n") == ANSWER
    assert "is down and nothing is left" in gpus.trtdist("down").stdout


@pytest.mark.long
@pytest.mark.parametrize("kind", ["oom", "unhealthy"])
def test_a_worker_of_dynamo_that_ends_is_the_first_cause(gpus: Workplace, kind: str) -> None:
    faulty(gpus, "ctx.0.0", kind)
    verdict = fails(gpus, DYNAMO)
    assert (verdict["state"], verdict["first"]["name"], verdict["first"]["code"]) == ("FAILED", "ctx.0.0", 1)


def program_of(place: Workplace, server: str, word: str) -> int:
    """The process of a server or program whose command line begins with words of which one ends so."""
    for pid in place.processes():
        path = Path("/proc", str(pid))
        words = (path / "cmdline").read_bytes().split(b"\0")[:4]
        if any(each.endswith(word.encode()) for each in words):
            environ = (path / "environ").read_bytes().split(b"\0")
            if f"TRTDIST_SERVER={server}".encode() in environ or f"TRTDIST_STEP={server}".encode() in environ:
                return pid
    raise AssertionError(f"no {word} of {server}")


def answered(place: Workplace) -> bool:
    """Whether a prompt has its answer."""
    front = place.start(*ASK)
    return front.communicate(timeout=END_S)[0].strip("\n") == ANSWER and front.returncode == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("topology", "name", "word", "settings"),
    [
        (DISAGGREGATED, "gen.1", "trtllm-serve", ()),
        (DISAGGREGATED, "ctx.0", "tensorrt_llm.llmapi.mgmn_leader_node", ()),
        (DISAGGREGATED, "ctx.0", "trtllm-serve", ("--set", "router.discovery=etcd")),
        (DISAGGREGATED, "router", "trtllm-serve", ()),
        (DYNAMO, "gen.1", "dynamo.trtllm", ()),
        (DYNAMO, "front", "dynamo.frontend", ()),
    ],
)
def test_what_is_killed_is_started_again_and_serves(
    gpus: Workplace, topology: Path, name: str, word: str, settings: tuple[str, ...]
) -> None:
    """Also when a connection was open, which keeps its port from being bound for a minute."""
    sections = ("context_servers", "generation_servers", "router")
    restart = [each for name in sections for each in ("--set", f"{name}.restart.policy=on-failure")]
    gpus.trtdist("up", topology, "--local", "--detach", *settings, *restart)
    found = dict(line.split("=", 1) for line in (gpus.runs()[-1] / "resolved.env").read_text().splitlines() if line)
    listening = dict(pair.split("=") for pair in found["TRTDIST_ENDPOINTS"].strip("'\"").split())
    host, _, port = listening.get(name, found["TRTDIST_HTTP_URL"].strip("'\"").rpartition("/")[2]).rpartition(":")
    with socket.create_connection((host, int(port))):
        os.kill(program_of(gpus, name, word), signal.SIGKILL)
        wait_for(lambda: gpus.events(Restarting) != [], UP_SECONDS, f"the restart of {name}")
    proven = (name, "canary")
    wait_for(lambda: [(e.name, e.rung) for e in gpus.events(Rung)].count(proven) == 2, END_S, f"{name} again")
    restarts = gpus.events(Restarting)
    assert [event.step for event in restarts] == [name], restarts
    wait_for(lambda: gpus.status()["detail"] == "", UP_SECONDS, "a run that misses nobody")
    # What is found in etcd is found until its lease ends.
    wait_for(lambda: all(answered(gpus) for _ in range(2)), UP_SECONDS, "answers of both generation servers")
    assert gpus.status()["state"] == "READY"
    assert "is down and nothing is left" in gpus.trtdist("down").stdout


def test_commands_that_are_missing_are_told_before_anything_starts(place: Workplace) -> None:
    done = place.trtdist("up", DISAGGREGATED, "--local", code=4)
    assert "there is no trtllm-serve on PATH" in done.stderr
    assert place.runs() == []
