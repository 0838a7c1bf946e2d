"""The engine as a worker sees it, over simulated ranks."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engines.oracle import answer
from tests.engines.simulated import Deployment
from tests.engines.topologies import KEY, continued, disaggregated, monolithic
from trtdist.engines.base import (
    CONTEXT_ONLY,
    EngineConfig,
    EngineError,
    EngineOutput,
    GenerateRequest,
    RefusedError,
    Sampling,
)
from trtdist.engines.reference import create
from trtdist.engines.reference.shape import HEADS, POSITIONS, kv_bytes
from trtdist.plan import Plan
from trtdist.topology.checks import REFERENCE_TP

SAMPLING = Sampling(max_tokens=12, temperature=0.8, seed=5)
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    (path / "secrets").mkdir()
    (path / "secrets" / "kv.key").write_text(KEY)
    return path


def during(plan: Plan, run_dir: Path, work: Callable[[Deployment], Awaitable[Any]]) -> Any:
    """Run something while a deployment is up."""

    async def whole() -> Any:
        async with Deployment(plan, run_dir) as deployment:
            return await asyncio.wait_for(work(deployment), 60)

    return asyncio.run(whole())


async def ask(deployment: Deployment, server: str, request: GenerateRequest) -> list[EngineOutput]:
    return [output async for output in deployment.engines[server].generate(request)]


async def across(deployment: Deployment, prompt: str, sampling: Sampling) -> list[EngineOutput]:
    """An answer that one server begins and another one goes on with."""
    request = GenerateRequest("r", sampling, prompt, request_type=CONTEXT_ONLY)
    [kept] = await ask(deployment, "ctx.0", request)
    assert kept.finish_reason == "not_finished" and kept.disaggregated is not None
    assert kept.usage["prefill_tokens"] == kept.usage["prompt_tokens"] == len(prompt.encode()) + 1
    return await ask(deployment, "gen.0", continued(kept, sampling, prompt))


def whole(outputs: list[EngineOutput]) -> tuple[tuple[int, ...], str, str | None, str]:
    tokens = tuple(token for output in outputs for token in output.token_ids)
    last = outputs[-1]
    return tokens, "".join(output.text for output in outputs), last.finish_reason, last.usage["logits"]


@pytest.mark.parametrize("launch", ["mpi_world", "per_server"])
@pytest.mark.parametrize(("context", "generation"), [(1, 1), (2, 1), (1, 4), (4, 2), (8, 8)])
def test_disaggregated_answers_are_those_of_one_rank(launch: str, context: int, generation: int, run_dir: Path) -> None:
    plan = disaggregated(launch, context, generation)
    outputs = during(plan, run_dir, lambda deployment: across(deployment, PROMPT, SAMPLING))
    assert whole(outputs) == answer(PROMPT, SAMPLING)
    tokens = len(PROMPT) + 1
    assert outputs[-1].usage == {
        "prompt_tokens": tokens,
        "completion_tokens": 12,
        "prefill_tokens": 0,
        "reused_tokens": 0,
        "kv_bytes": kv_bytes(tokens),
        "logits": outputs[-1].usage["logits"],
    }
    assert kv_bytes(tokens) == 2 * tokens * 64 * 2 * 2


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.text(max_size=200),
    tokens=st.integers(1, 20),
    temperature=st.sampled_from([0.0, 0.5, 2.0]),
    stop=st.sampled_from([(), ("a",), (" lantern", "moo"), ("e l",)]),
    launch=st.sampled_from(["mpi_world", "per_server"]),
    tps=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
)
def test_any_prompt_is_answered_alike(
    run_dir: Path,
    prompt: str,
    tokens: int,
    temperature: float,
    stop: tuple[str, ...],
    launch: str,
    tps: tuple[int, int],
) -> None:
    sampling = Sampling(tokens, temperature, seed=tokens, stop=stop)
    found = during(disaggregated(launch, *tps), run_dir, lambda deployment: across(deployment, prompt, sampling))
    assert whole(found) == answer(prompt, sampling)


def test_the_first_token_can_be_the_last(run_dir: Path) -> None:
    async def work(deployment: Deployment) -> None:
        one = await across(deployment, PROMPT, replace(SAMPLING, max_tokens=1))
        assert len(one) == 1 and len(one[0].token_ids) == 1 and one[0].finish_reason == "length"
        stopped = await across(deployment, PROMPT, replace(SAMPLING, stop=(one[0].text,)))
        assert [(output.text, output.finish_reason) for output in stopped] == [("", "stop")]

    during(disaggregated("mpi_world"), run_dir, work)


def test_requests_share_the_steps(run_dir: Path) -> None:
    prompts = [PROMPT * count for count in (1, 2, 9)]

    async def work(deployment: Deployment) -> None:
        requests = [GenerateRequest(prompt, SAMPLING, prompt) for prompt in prompts]
        found = await asyncio.gather(*[ask(deployment, "srv.0", request) for request in requests])
        assert [whole(each) for each in found] == [answer(prompt, SAMPLING) for prompt in prompts]

    during(monolithic(2), run_dir, work)


def test_who_is_quick_overtakes(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def work(deployment: Deployment) -> None:
        engine = deployment.engines["srv.0"]
        slow = engine.generate(GenerateRequest("long", Sampling(max_tokens=8000), "x"))
        assert (await slow.__anext__()).finish_reason is None
        assert (await ask(deployment, "srv.0", GenerateRequest("short", SAMPLING, "y")))[-1].finish_reason == "length"
        # It was let go in the middle; its cache is dropped within a step.
        await slow.aclose()  # type: ignore[attr-defined]
        await ask(deployment, "srv.0", GenerateRequest("after", SAMPLING, "y"))
        assert engine._leader is not None
        while engine._leader._sequences:
            await asyncio.sleep(0.001)

    during(monolithic(), run_dir, work)
    said = capsys.readouterr().err
    assert re.search(
        r"^\d\d:\d\d:\d\d reference engine: srv\.0: request 'long': cancelled after \d+ tokens$", said, re.M
    )
    assert said.count("cancelled") == 1


def test_delays_do_not_block_the_event_loop(run_dir: Path) -> None:
    async def work(deployment: Deployment) -> None:
        began = time.monotonic()
        asking = asyncio.ensure_future(ask(deployment, "srv.0", GenerateRequest("r", Sampling(max_tokens=3), "y")))
        turns = 0
        while not asking.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert time.monotonic() - began >= 0.6 + 2 * 0.2
        # A loop that stood still in the delays would turn a few times between them; a busy machine slows it only.
        assert turns > 12

    began = time.monotonic()
    during(monolithic(2, load_delay=0.3, prefill_delay=0.6, step_delay=0.2), run_dir, work)
    assert time.monotonic() - began >= 0.3 + 1.0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_load_error_is_told(rank: int, run_dir: Path) -> None:
    async def start() -> None:
        deployment = Deployment(monolithic(2, load_error="no room for the weights", fault_rank=rank), run_dir)
        with pytest.raises(EngineError, match="no room for the weights"):
            await deployment.__aenter__()
        for thread in deployment.threads:
            thread.join(60)
        assert "no room for the weights" in str(deployment.failures["srv.0.1"])

    asyncio.run(start())


def test_a_failed_follower_is_the_death_of_the_engine(run_dir: Path) -> None:
    async def start() -> None:
        deployment = Deployment(monolithic(2), run_dir)
        await deployment.__aenter__()
        engine = deployment.engines["srv.0"]
        stream = engine.generate(GenerateRequest("r", Sampling(max_tokens=8000), "x"))
        await stream.__anext__()
        died = asyncio.ensure_future(engine.died())
        assert not died.done()
        deployment.posts["srv.0"].mailbox(0).send(1, "no message that a rank knows")
        deployment.groups["srv.0"].abort()
        assert await asyncio.wait_for(died, 60)
        with pytest.raises(EngineError, match="the engine died"):
            async for _ in stream:
                pass
        with pytest.raises(EngineError, match="does not run"):
            await ask(deployment, "srv.0", GenerateRequest("r", SAMPLING, "x"))

    asyncio.run(start())


def test_stopping_cancels_what_is_left(run_dir: Path) -> None:
    async def start() -> None:
        async with Deployment(monolithic(2), run_dir) as deployment:
            engine = deployment.engines["srv.0"]
            stream = engine.generate(GenerateRequest("r", Sampling(max_tokens=8000), "x"))
            await stream.__anext__()
            died = asyncio.ensure_future(engine.died())
            await asyncio.wait_for(engine.stop(), 60)
            rest = [output async for output in stream]
            assert rest[-1].finish_reason == "cancelled"
            await asyncio.sleep(0)
            assert not died.done(), "an engine that was stopped has not died"
            died.cancel()
        assert all(links.closed for links in deployment.links)

    asyncio.run(start())


def test_servers_of_one_world_may_stop_one_after_the_other(run_dir: Path) -> None:
    async def start() -> None:
        async with Deployment(disaggregated("mpi_world", 2, 2), run_dir) as deployment:
            [kept] = await ask(deployment, "ctx.0", GenerateRequest("r", SAMPLING, PROMPT, request_type=CONTEXT_ONLY))
            first = asyncio.ensure_future(deployment.engines["ctx.0"].stop())
            # What the context server promised is still to be had while it waits for the others.
            last = await ask(deployment, "gen.0", continued(kept, SAMPLING))
            assert last[-1].finish_reason == "length" and not first.done()
            await asyncio.wait_for(deployment.engines["gen.0"].stop(), 60)
            await asyncio.wait_for(first, 60)

    asyncio.run(start())


@pytest.mark.parametrize(
    ("request_", "kind", "told"),
    [
        (GenerateRequest("r", Sampling(max_tokens=POSITIONS), "x"), RefusedError, "limit is 16384"),
        (GenerateRequest("r", SAMPLING, "x" * POSITIONS), RefusedError, "limit is 16384"),
        (
            GenerateRequest("r", SAMPLING, "x" * POSITIONS, request_type=CONTEXT_ONLY),
            RefusedError,
            "16384 are the limit",
        ),
        (GenerateRequest("r", SAMPLING, token_ids=(1, 99999)), RefusedError, "vocabulary"),
        (GenerateRequest("r", Sampling(temperature=-1), "x"), RefusedError, "temperature"),
        (GenerateRequest("r", SAMPLING, "x", request_type="other"), EngineError, "request type"),
        (GenerateRequest("r", SAMPLING, "x", request_type="generation_only"), EngineError, "does not read prompts"),
    ],
)
def test_a_refusal_says_why(request_: GenerateRequest, kind: type[EngineError], told: str, run_dir: Path) -> None:
    async def work(deployment: Deployment) -> None:
        with pytest.raises(kind, match=told):
            await ask(deployment, "srv.0", request_)

    during(monolithic(), run_dir, work)


@pytest.mark.parametrize(
    "change",
    [
        {"pipeline_parallel_size": 2},
        {"context_parallel_size": 2},
        {"tensor_parallel_size": 3},
        {"tensor_parallel_size": 16},
        {"engine_args": {"reference": {"sleep": 1}}},
    ],
)
def test_what_the_engine_cannot_be_is_refused(change: dict[str, Any], run_dir: Path) -> None:
    plan = monolithic()
    engine = create(EngineConfig(plan, replace(plan.servers[0], **change), 0, run_dir))
    with pytest.raises(EngineError, match="reference engine"):
        asyncio.run(engine.start())
    with pytest.raises(EngineError, match="reference engine"):
        engine.follow()


def test_the_diagnostics_know_how_the_model_can_be_shared() -> None:
    assert [tp for tp in range(1, 2 * HEADS) if HEADS % tp == 0] == list(REFERENCE_TP)
