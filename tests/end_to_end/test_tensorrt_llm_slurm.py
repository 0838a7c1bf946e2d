"""Deployments of TensorRT-LLM over several nodes, through Slurm, with the stand-in in the place of TensorRT-LLM."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import ROOT, Cluster
from tests.end_to_end.test_through_slurm import SHARED, User
from tests.supervisor.runs import wait_for

SLURM = ROOT / "examples" / "slurm"
ON_THE_HOST = ("--set", "container.runtime=none", "--set", "container.image=null", "--set", "container.mounts=[]")
ASK = ("client", "--prompt", "The capital of France is", "--max-tokens", 6, "--temperature", 0)
ANSWER = " olive heron grove maple amber quartz"
PER_SERVER = "disagg-2nodes-per-server.tensorrt-llm.yaml"
ONE_WORLD = "disagg-2nodes.tensorrt-llm.yaml"
SOON = ("timeouts.ready=30", "canary.timeout=4")
END_S = 60


@pytest.fixture
def user(cluster: Cluster) -> User:
    return User(cluster)


def submit(user: User, example: str, *faults: dict[str, Any], settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Submit an example, each rank of which finds the stand-in; what came of it."""
    environ = {"PYTHONPATH": str(ROOT / "tests" / "standin"), "STANDIN_FAULTS": json.dumps(faults)}
    setting = ["--set", f"container.env={json.dumps(environ)}", "--set", "model=some/model"]
    for each in settings:
        setting += ["--set", each]
    done = user.trtdist("submit", SLURM / example, *SHARED, *ON_THE_HOST, *setting, "--wait", "--json")
    found: dict[str, Any] = {"code": done.returncode, "said": done.stdout + done.stderr}
    return {**(json.loads(done.stdout) if done.returncode == 0 else {}), **found}


@pytest.mark.long
@pytest.mark.parametrize(
    "example",
    [
        "monolithic-2nodes.tensorrt-llm.yaml",
        ONE_WORLD,
        PER_SERVER,
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


def verdict_of(user: User) -> dict[str, Any]:
    """How the newest run ended; nothing of it is left."""
    path = user.run_dir() / "verdict.json"
    wait_for(path.exists, END_S, "a verdict")
    found: dict[str, Any] = json.loads(path.read_text())
    wait_for(lambda: user.left() == [], END_S, "the end of all that the run had started")
    return found


def fault(rank: str, kind: str, **more: Any) -> dict[str, Any]:
    server, _, number = rank.rpartition(".")
    return {"server": server, "rank": int(number), "kind": kind, **more}


@pytest.mark.long
@pytest.mark.parametrize(
    ("example", "faults", "settings", "first", "told"),
    [
        (PER_SERVER, [fault("gen.1.1", "oom")], (), "gen.1.1", "gen.1.1 failed: OutOfMemoryError: CUDA out of memory"),
        (PER_SERVER, [], ("model=gated/model",), "", "Cannot access gated repo"),
        (
            PER_SERVER,
            [],
            ('generation_servers.extra_engine_args={"max_seq_length": 5}',),
            "gen.",
            "has no argument 'max_seq_length'; did you mean 'max_seq_len'?",
        ),
        (PER_SERVER, [fault("gen.0.0", "dies", tokens=3)], (), "gen.0.0", "an illegal memory access"),
        (ONE_WORLD, [fault("gen.0.0", "dies", tokens=3)], (), "gen.0.0", "an illegal memory access"),
    ],
)
def test_a_fault_on_another_node_is_the_first_cause(
    user: User, example: str, faults: list[dict[str, Any]], settings: tuple[str, ...], first: str, told: str
) -> None:
    came = submit(user, example, *faults, settings=settings)
    # One that dies at a token may have given all of the canaries' to READY, a moment before.
    assert came["code"] in ((0, 1) if "dies" in {each["kind"] for each in faults} else (1,)), came["said"]
    verdict = verdict_of(user)
    assert verdict["state"] == "FAILED" and verdict["first"]["name"].startswith(first), verdict
    assert told in "\n".join(verdict["last_lines"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("rank", "kind", "behind", "told"),
    [
        (
            "gen.1.1",
            "hang",
            "gen.1.1",
            "gen.1.1 is behind the others, and the last line of its log is 'Rank 1 is using GPU",
        ),
        ("gen.1.0", "silent", "gen.1", "; gen.1, where it was then, had not answered a token of it"),
    ],
)
def test_an_engine_that_never_comes_is_named(user: User, rank: str, kind: str, behind: str, told: str) -> None:
    came = submit(user, PER_SERVER, fault(rank, kind), settings=SOON)
    assert came["code"] == 3, came["said"]
    verdict = verdict_of(user)
    assert (verdict["state"], verdict["first"]["name"]) == ("TIMEOUT", behind)
    assert told in verdict["reason"]


@pytest.mark.long
def test_an_engine_that_dies_after_ready_behind_a_harmless_traceback(user: User) -> None:
    came = submit(user, PER_SERVER, fault("ctx.0.1", "traceback"), fault("gen.1.0", "dies", tokens=20))
    assert came["code"] == 0, came["said"]
    assert "Traceback (most recent call last)" in (user.run_dir() / "logs" / "ctx.0.1.log").read_text()
    # Every second prompt goes to gen.1, which lives no longer than for twenty tokens.
    asked = [user.trtdist("client", "--prompt", "Go on", "--max-tokens", 30).returncode for _ in range(2)]
    assert asked.count(0) <= 1
    verdict = verdict_of(user)
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", "gen.1.0")
    assert "an illegal memory access" in "\n".join(verdict["last_lines"])


@pytest.mark.long
def test_a_model_that_is_missing_on_one_node(user: User) -> None:
    folder = f"/tmp/model-{os.getpid()}"
    # It is on the submit host, where it is looked at first, and on the first node.
    hosts = ("submit", "node1")
    files = r"printf '\2\0\0\0\0\0\0\0{}' > model.safetensors; echo '{}' | tee config.json > tokenizer.json"
    for host in hosts:
        user.cluster.output("bash", "-c", f"mkdir {folder} && cd {folder} && {files}", host=host)
    try:
        assert user.cluster.run("test", "-d", folder, host="node2").returncode != 0, "nodes have a /tmp of their own"
        nodes = "slurm.extra_sbatch=['--nodelist=node[1-2]']"
        came = submit(user, PER_SERVER, settings=(f"model={folder}", nodes))
    finally:
        for host in hosts:
            user.cluster.output("rm", "-r", folder, host=host)
    assert came["code"] == 1, came["said"]
    verdict = verdict_of(user)
    plan = json.loads((user.run_dir() / "plan.json").read_text())
    away = {server["name"] for server in plan["servers"] if any(rank["node"] for rank in server["ranks"])}
    assert verdict["state"] == "FAILED" and verdict["first"]["name"].rpartition(".")[0] in away
    assert f"'{folder}'. Use `repo_type`" in "\n".join(verdict["last_lines"])


@pytest.mark.long
def test_two_ways_for_a_cache_never_reach_the_queue(user: User) -> None:
    other = 'generation_servers.cache_transceiver_config={"backend": "NIXL"}'
    came = submit(user, PER_SERVER, settings=(other,))
    assert came["code"] == 2 and "cache_transceiver_config" in came["said"]
    assert not user.runs.exists() or list(user.runs.iterdir()) == []
