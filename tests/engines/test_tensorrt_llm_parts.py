"""The parts of the TensorRT-LLM engine that need no TensorRT-LLM."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engines.real_run import ROOT, STANDIN
from tests.engines.test_tensorrt_llm import split, whole
from trtdist.engines.base import EngineConfig, EngineError, Sampling
from trtdist.engines.tensorrt_llm import create
from trtdist.engines.tensorrt_llm.deaths import Deaths
from trtdist.engines.tensorrt_llm.device import choose_device, leave_mpi
from trtdist.engines.tensorrt_llm.handle import Handle, parse
from trtdist.engines.tensorrt_llm.requests import Progress, sampling_arguments
from trtdist.engines.tensorrt_llm.room import Room
from trtdist.engines.tensorrt_llm.session import named_task, run_task
from trtdist.plan import Plan, Server, to_json
from trtdist.rendering import site_files

HANDLE = Handle("ctx.0", "1.2.0", "UCX", b"\0\xff\n{", {"draft_tokens": [1, 2], "ctx_info_endpoint": "tcp://n1:5"})


@given(st.binary(max_size=2000), st.integers(0, 2**63 - 1), st.lists(st.integers(0, 10**6), max_size=8))
def test_a_state_arrives_as_it_left(state: bytes, number: int, draft: list[int]) -> None:
    handle = replace(HANDLE, state=state, more={"disagg_request_id": number, "draft_tokens": draft})
    assert parse(handle.encode()) == handle


@given(st.binary(max_size=300))
def test_noise_is_no_state(data: bytes) -> None:
    with pytest.raises(EngineError, match="damaged"):
        parse(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("server", 7),
        ("server", "x" * 200),
        ("transport", None),
        ("more", []),
        ("more", {"opaque_state": "x"}),
        ("more", {"draft_tokens": [[1]]}),
        ("more", {"ctx_dp_rank": True}),
        ("more", {"ctx_dp_rank": 1.5}),
        ("more", {"ctx_info_endpoint": {"a": 1}}),
    ],
)
def test_a_damaged_state_is_refused(name: str, value: Any) -> None:
    line, _, state = HANDLE.encode().partition(b"\n")
    data = json.dumps({**json.loads(line), name: value}).encode() + b"\n" + state
    with pytest.raises(EngineError, match="damaged"):
        parse(data)


def test_a_state_is_limited() -> None:
    with pytest.raises(EngineError, match="more than 1048576"):
        replace(HANDLE, state=bytes(1 << 20)).encode()
    with pytest.raises(EngineError, match="more than 1048576"):
        parse(HANDLE.encode() + bytes(1 << 20))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=0), {"top_k": 1}),
        (Sampling(temperature=0.7), {"temperature": 0.7, "top_p": 1.0}),
        (Sampling(temperature=0, seed=0, stop=("a", "b")), {"top_k": 1, "seed": 0, "stop": ["a", "b"]}),
    ],
)
def test_sampling_in_the_words_of_tensorrt_llm(sampling: Sampling, expected: dict[str, Any]) -> None:
    assert sampling_arguments(sampling, 5) == {"max_tokens": 5, **expected}


@dataclass
class Completion:
    """As `CompletionOutput` and `RequestOutput` in one."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    finished: bool = False
    prompt_token_ids: tuple[int, ...] = (1, 2, 3)

    @property
    def outputs(self) -> list[Completion]:
        return [self]


def test_what_grows_is_told_in_pieces() -> None:
    progress = Progress()
    grown = [
        Completion([5], " a"),
        Completion([5, 6], " a b stop"),
        Completion([5, 6], " a b", "stop", finished=True),
    ]
    found = [progress.output(each) for each in grown]
    assert [(each.token_ids, each.text, each.finish_reason) for each in found] == [
        ((5,), " a", None),
        ((6,), " b stop", None),
        ((), "", "stop"),
    ]
    assert found[-1].usage == {"prompt_tokens": 3, "completion_tokens": 2}


@pytest.mark.parametrize(("reason", "told"), [("length", "length"), ("timeout", "length"), ("cancelled", "cancelled")])
def test_finish_reasons(reason: str, told: str) -> None:
    assert Progress().output(Completion([1], "x", reason, finished=True)).finish_reason == told


def test_an_end_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(EngineError, match="'not_finished', which is no end"):
        Progress().output(Completion([1], "x", "not_finished", finished=True))


def test_the_death_that_says_more_is_told() -> None:
    async def reason(*signs: tuple[str, str]) -> str:
        deaths = Deaths()
        for how, text in signs:
            getattr(deaths, how)(text)
        return await asyncio.wait_for(deaths.reason, 30)

    assert asyncio.run(reason(("ended", "srv.0.1 left"), ("failed", "out of memory"))) == "out of memory"
    assert asyncio.run(reason(("ended", "srv.0.1 left"))) == "srv.0.1 left"


def test_an_end_that_was_asked_for_is_no_death() -> None:
    async def ask() -> bool:
        deaths = Deaths()
        deaths.stop()
        deaths.failed("the ranks end")
        await asyncio.sleep(0.01)
        return deaths.reason.done()

    assert not asyncio.run(ask())


def fail(problem: str) -> None:
    raise ValueError(problem)


def test_a_leaders_task_names_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTDIST_SERVER", "gen.1")
    monkeypatch.setenv("TRTDIST_RANK", "0")
    assert run_task(print, end="") == "gen.1.0"
    with pytest.raises(EngineError, match=r"gen\.1\.0 failed: ValueError: no room"):
        run_task(fail, "no room")


def test_what_a_leader_waits_for_has_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTDIST_SERVER", "gen.1")
    monkeypatch.setenv("TRTDIST_RANK", "1")
    assert named_task(int, "7") == 7
    with pytest.raises(EngineError, match=r"gen\.1\.1 failed: ValueError: no room"):
        named_task(fail, "no room")


def swallow(problem: str, worker_cls: Any) -> None:
    """As `worker_main` does with what the constructor of a worker raises."""
    try:
        worker_cls(problem)
    except ValueError:
        return


def test_what_worker_main_swallows_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTDIST_SERVER", "gen.1")
    monkeypatch.setenv("TRTDIST_RANK", "0")
    with pytest.raises(EngineError, match=r"gen\.1\.0 failed: ValueError: no room"):
        run_task(swallow, "no room", worker_cls=fail)
    assert run_task(swallow, "0", worker_cls=int) == "gen.1.0"


def test_a_rank_that_does_not_lead_ends_with_its_task() -> None:
    code = (
        f"from {__name__} import fail; from trtdist.engines.tensorrt_llm.session import run_task; run_task(fail, 'x')"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TRTDIST_SERVER": "gen.1", "TRTDIST_RANK": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.endswith("trtdist: gen.1.3 failed: ValueError: x\n")


@pytest.mark.parametrize(("rank", "device"), [(0, 1), (1, 0)])
def test_a_rank_takes_the_device_of_the_rule(rank: int, device: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = split()
    use_standin(monkeypatch, "1,2")
    assert choose_device(EngineConfig(plan, plan.server("gen.0"), rank, Path())) == device


def test_too_few_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = split()
    use_standin(monkeypatch, "2")
    with pytest.raises(EngineError, match=r"gen\.0\.1 needs 2 GPUs on its node and PyTorch sees 1"):
        choose_device(EngineConfig(plan, plan.server("gen.0"), 1, Path()))


def use_standin(monkeypatch: pytest.MonkeyPatch, devices: str) -> None:
    """Have `import torch` find the stand-in, in this test alone."""
    monkeypatch.syspath_prepend(str(STANDIN))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    for name in ("torch", "torch.cuda"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name))
        monkeypatch.delitem(sys.modules, name)


def test_a_world_of_one_rank_forgets_its_launcher() -> None:
    environ = {
        "OMPI_COMM_WORLD_RANK": "0",
        "PMIX_RANK": "0",
        "SLURM_PROCID": "0",
        "OMPI_MCA_ess": "pmi",
        "OMPI_MCA_btl": "self,sm",
        "UCX_NET_DEVICES": "mlx5_0:1",
        "SLURMD_NODENAME": "n1",
        "PATH": "/bin",
    }
    leave_mpi(environ)
    assert set(environ) == {"OMPI_MCA_btl", "UCX_NET_DEVICES", "SLURMD_NODENAME", "PATH"}


def test_no_tensorrt_llm_is_something_missing() -> None:
    plan = whole()
    with pytest.raises(ImportError, match="use an image that has it"):
        create(EngineConfig(plan, plan.servers[0], 0, Path()))


def test_the_stand_in_is_not_installed() -> None:
    assert importlib.util.find_spec("tensorrt_llm") is None
    assert not [name for name in site_files() if "standin" in name or name.startswith(("tensorrt_llm", "torch"))]


ARGUMENTS = """\
import json, sys
from pathlib import Path
from trtdist.engines.base import EngineConfig, EngineError
from trtdist.engines.tensorrt_llm import api, options
from trtdist.plan import from_json
found, loaded = [], api.load()
for text in json.load(sys.stdin):
    plan = from_json(text)
    for server in plan.servers:
        config = EngineConfig(plan, server, 0, Path())
        try:
            given = options.arguments(config, loaded)
            given["kv_cache_config"] = given["kv_cache_config"].free_gpu_memory_fraction
            found.append([given, options.environment(config, loaded)])
        except EngineError as error:
            found.append(str(error))
print("ARGUMENTS " + json.dumps(found))
"""


def with_arguments(plan: Plan, **arguments: Any) -> Plan:
    """The plan with further engine arguments for all servers."""

    def told(server: Server) -> Server:
        return replace(server, engine_args={**server.engine_args, **arguments})

    return replace(plan, servers=tuple(map(told, plan.servers)))


class Asked:
    """What each release is told for the same plans; the releases are asked at the same time."""

    def __init__(self, plans: list[Plan], *releases: str) -> None:
        texts = json.dumps([to_json(plan) for plan in plans])
        environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{STANDIN}", "OMPI_MCA_btl": "self"}
        self._asked = {
            release: subprocess.Popen(
                [sys.executable, "-c", ARGUMENTS],
                env={**environ, "STANDIN_RELEASE": release},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for release in releases
        }
        for process in self._asked.values():
            assert process.stdin is not None
            process.stdin.write(texts)
            process.stdin.close()
            process.stdin = None

    def told(self, release: str) -> list[Any]:
        output, _ = self._asked[release].communicate(timeout=60)
        [line] = [line for line in output.splitlines() if line.startswith("ARGUMENTS ")]
        found: list[Any] = json.loads(line.removeprefix("ARGUMENTS "))
        return found


def test_each_release_is_told_in_its_own_words() -> None:
    plans = [
        split("mpi_world"),
        split("per_server"),
        with_arguments(whole(4), max_batch_size=8),
        with_arguments(whole(), tensor_parallel_sise=8),
        with_arguments(split("per_server"), cache_transceiver_config={"backend": "MPI"}),
        with_arguments(split("per_server"), cache_transceiver_config={"backend": "DEFAULT", "max_tokens_in_buffer": 9}),
    ]
    asked = Asked(plans, "0.18.2", "0.21.0", "1.2.0", "1.4.0rc1")
    model = {"model": "some/model", "tensor_parallel_size": 1, "kv_cache_config": 0.1}

    old = asked.told("0.18.2")
    assert old[0] == [model, {"TRTLLM_USE_MPI_KVCACHE": "1"}]
    assert old[2] == [model, {"TRTLLM_USE_UCX_KVCACHE": "1"}]
    assert "TensorRT-LLM 0.18.2+stand-in has no argument 'tensor_parallel_sise'" in old[5]
    assert "did you mean 'tensor_parallel_size'?" in old[5]

    limit = {"kv_transfer_timeout_ms": 60000}
    for release, mpi, ucx, more in (("0.21.0", "mpi", "ucx", {}), ("1.2.0", "MPI", "UCX", limit)):
        told = asked.told(release)
        context = {**model, "disable_overlap_scheduler": True}
        assert told[0] == [{**context, "cache_transceiver_config": {"backend": mpi, **more}}, {}]
        assert told[1][0] == {**model, "tensor_parallel_size": 2, "cache_transceiver_config": {"backend": mpi, **more}}
        assert told[2][0]["cache_transceiver_config"] == {"backend": ucx, **more}
        assert told[4] == [{**model, "tensor_parallel_size": 4, "kv_cache_config": 0.9, "max_batch_size": 8}, {}]
        assert "cannot travel over MPI between servers that have a world each" in told[6]
        assert told[8][0]["cache_transceiver_config"] == {"backend": ucx, "max_tokens_in_buffer": 9, **more}

    new = asked.told("1.4.0rc1")
    assert new[0][0]["cache_transceiver_config"] == {"backend": "MPI", "transceiver_runtime": "CPP", **limit}
    assert new[2][0]["cache_transceiver_config"] == {"backend": "NIXL", **limit}


class Telling:
    """An engine that has told of two kinds of layers, and of ranks with caches of their own."""

    def __init__(self, *rounds: Any) -> None:
        self._rounds = list(rounds)

    async def get_kv_cache_events_async(self, timeout: float) -> AsyncIterator[Any]:
        if not self._rounds:
            raise RuntimeError("the engine has ended")
        for event in self._rounds.pop(0):
            if event is None:
                raise IndexError
            yield event


def created(window: int, *blocks: int) -> dict[str, Any]:
    return {"event_id": 0, "window_size": window, "data": {"type": "created", "num_blocks_per_cache_level": blocks}}


@pytest.mark.parametrize(
    ("rounds", "tokens"),
    [
        ([[created(2048, 100, 20)]], 3840),
        ([[created(512, 900), created(2048, 100, 0), created(2048, 90, 0)]], 2880),
        ([[[created(2048, 10), {"event_id": 1, "data": {"type": "removed", "block_hashes": [1]}}]]], 320),
        ([[None]], 0),
        ([["noise", {}, {"data": None}]], 0),
        ([], 0),
    ],
)
def test_the_room_for_earlier_prompts_is_told_by_events(rounds: list[Any], tokens: int) -> None:
    async def main() -> int:
        room = Room(Telling(*rounds), 32)
        assert room.tokens == 0
        room.begin()
        await asyncio.sleep(0.01)
        room.end()
        return room.tokens

    assert asyncio.run(main()) == tokens
    older = Room(object(), 32)
    older.begin()
    assert older.tokens == 0
