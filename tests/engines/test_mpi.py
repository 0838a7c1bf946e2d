"""Real ranks under a real mpiexec."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.engines import oracle
from tests.engines.real_run import RealRun, until
from tests.engines.topologies import disaggregated, monolithic
from trtdist.engines.base import Sampling
from trtdist.engines.reference.shape import kv_bytes
from trtdist.plan import Plan

SAMPLING: dict[str, Any] = {"max_tokens": 30, "temperature": 0.7, "seed": 3}
PROMPT = "The capital of France is"


def alone(run: RealRun) -> Any:
    return run.call("srv.0", "generate", {"request_id": "r", "prompt": PROMPT, "sampling": SAMPLING})


def across(run: RealRun, generation: str = "gen.0") -> Any:
    asked = {"request_id": "r", "prompt": PROMPT, "sampling": SAMPLING}
    [kept] = run.call("ctx.0", "generate", {**asked, "request_type": "context_only"})
    where = kept["disaggregated"]
    return run.call(generation, "generate", {**asked, "request_type": "generation_only", "disaggregated": where})


def busy_s(pid: int) -> float:
    """Seconds of processor time, all threads."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def share(pids: list[int], seconds: float) -> float:
    """The most of a processor that one of these processes takes, measured for so long."""
    before, began = [busy_s(pid) for pid in pids], time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return max(busy_s(pid) - then for pid, then in zip(pids, before)) / took


def check(run: RealRun, found: Any) -> None:
    assert found[-1]["usage"]["logits"] == oracle.answer(PROMPT, Sampling(**SAMPLING))[3], found
    moved = found[-1]["usage"]["kv_bytes"]
    assert moved == (0 if run.plan.servers[0].role == "monolithic" else kv_bytes(len(PROMPT) + 1))


def test_one_world_answers_stays_idle_and_ends_together() -> None:
    with RealRun(disaggregated("mpi_world", 2, 1)) as run:
        check(run, across(run))
        pids = [run.pid("ctx.0"), run.pid("ctx.0", 1), run.pid("gen.0")]
        until(lambda: share(pids, 0.2) < 0.1, "the end of all work")
        # The kernel counts in ticks of 10 ms, and on a busy machine may count those of others.
        until(lambda: share(pids, 2.0) <= 0.01, "a while without work")
        assert run.stop() < 60
        assert "TP2 rank 1" in run.log() and "rank 1 of ctx.0 follows its leader" in run.log()


@pytest.mark.long
@pytest.mark.parametrize(
    ("plan", "ask"),
    [
        (monolithic(1), alone),
        (monolithic(2), alone),
        (monolithic(4), alone),
        (disaggregated("mpi_world", 1, 1), across),
        (disaggregated("mpi_world", 1, 4), across),
        (disaggregated("mpi_world", 4, 2), across),
        (disaggregated("per_server", 1, 1), across),
        (disaggregated("per_server", 2, 1), across),
        (disaggregated("per_server", 1, 2), across),
    ],
)
def test_every_way_to_start_gives_the_same_bits(plan: Plan, ask: Callable[[RealRun], Any]) -> None:
    with RealRun(plan) as run:
        check(run, ask(run))
        check(run, ask(run))
        assert run.stop() < 60


@pytest.mark.long
def test_a_long_prompt_moves_and_the_loops_go_on() -> None:
    prompt = "x" * 3000
    with RealRun(disaggregated("mpi_world", 2, 1)) as run:
        for server in ("ctx.0", "gen.0"):
            run.call(server, "tick")
        asked = {"request_id": "r", "prompt": prompt, "sampling": {"max_tokens": 4, "temperature": 0}}
        [kept] = run.call("ctx.0", "generate", {**asked, "request_type": "context_only"})
        asked |= {"request_type": "generation_only", "disaggregated": kept["disaggregated"]}
        answer = run.call("gen.0", "generate", asked)
        assert answer[-1]["usage"]["kv_bytes"] == kv_bytes(3001)
        assert max(run.call(server, "lag") for server in ("ctx.0", "gen.0")) < 0.5
        assert run.stop() < 60


@pytest.mark.long
def test_servers_may_stop_one_after_the_other() -> None:
    with RealRun(disaggregated("mpi_world", 2, 1)) as run:
        run.pid("gen.0")
        run.begin("ctx.0", "stop")
        first = run.pid("ctx.0")
        until(lambda: share([first], 0.2) < 0.1, "the end of all work")
        assert share([first], 1.0) < 0.1 and psutil.pid_exists(first), "who waits for the others burns no core"
        run.begin("gen.0", "stop")
        assert run.launchers[""].wait(60) == 0, run.log()


@pytest.mark.long
@pytest.mark.parametrize("launch", ["mpi_world", "per_server"])
@pytest.mark.parametrize("rank", [0, 1])
def test_nobody_outlives_a_killed_rank(launch: str, rank: int) -> None:
    with RealRun(disaggregated(launch, 1, 2)) as run:
        for server in ("ctx.0", "gen.0"):
            run.pid(server)
        asked = {"request_id": "r", "prompt": "x", "sampling": {"max_tokens": 15000}}
        if launch == "per_server":
            # In the middle of an answer, where ranks wait for each other.
            asked |= {"request_type": "context_and_generation"}
        run.begin("gen.0", "generate", asked)
        until(lambda: busy_s(run.pid("gen.0", 1)) > 0.5, "an answer in progress")
        launcher = run.launchers["" if launch == "mpi_world" else "gen.0"]
        mine = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
        psutil.Process(run.pid("gen.0", rank)).send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(mine[1:], timeout=5)
        assert alive == [] and launcher.wait(60) != 0
        if launch == "per_server":
            assert psutil.pid_exists(run.pid("ctx.0"))


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_exits_when_told_to(rank: int) -> None:
    plan = monolithic(2, exit_after_tokens=5, exit_code=7, fault_rank=rank)
    with RealRun(plan) as run:
        asked = {"request_id": "r", "prompt": "x", "sampling": {"max_tokens": 100}}
        run.begin("srv.0", "generate", asked)
        assert run.launchers[""].wait(60) == 7, run.log()
        assert "exits with code 7 after 5 tokens" in run.log()


@pytest.mark.long
def test_a_world_of_the_wrong_size_is_refused() -> None:
    plan = monolithic(2)
    with RealRun(plan) as run:
        run.pid("srv.0")
        run.launch("srv.0", 1)
        assert run.launchers["srv.0"].wait(60) != 0
        assert "is MPI rank 0 of 1, and the plan says 0 of 2" in run.log()


def test_importing_the_engine_starts_nothing() -> None:
    code = "import sys, trtdist.engines.reference; print([n for n in ('mpi4py', 'numpy') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
