"""The life of a request, against a router and workers that misbehave as a test says."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.serving.asked import (
    Play,
    beating,
    beginning,
    chunks,
    direct,
    disaggregated,
    fails,
    five,
    nothing,
    refuses,
)
from tests.serving.scripted import Act, Refusal, Stage, Worker, collect, greedy, until
from tests.serving.servers import NatsServer
from trtdist.serving.attempt import WINDOW
from trtdist.serving.protocol import Chunk, Failure, GenerateCall, Route, RouteCall
from trtdist.serving.requester import Ask, Requester, RequestError


def test_an_answer_crosses_context_and_generation(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        router, (context,), (generation,) = await disaggregated(stage, five)
        answers = await collect(stage.requester, Ask(greedy(), "hello", request_id="r1", context="ctx.0"))
        assert [one.text for one in answers] == ["0 ", "1 ", "2 ", "3 ", "4 "]
        assert [one.finish_reason for one in answers] == [None] * 4 + ["length"]
        assert answers[-1].usage == {"n": 5}
        # Five characters are estimated as two tokens, which are no whole block.
        assert router.calls == [RouteCall("r1", 0, (), "ctx.0", "", tokens=2)]
        (call,) = context.calls
        assert (call.prompt, call.generation, call.notify) == ("hello", generation.instance, "notices")
        assert call.window == WINDOW and 500 < call.timeout <= 600
        assert generation.controls == context.controls == []

    play(scene)


def test_routers_and_servers_take_turns(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        workers = [await stage.worker(f"srv.{number}", five) for number in range(2)]

        def decide(call: RouteCall) -> Route:
            return Route(call.request_id, call.attempt, None, workers[0].instance, "")

        routers = [await stage.router(decide) for _ in range(2)]
        for _ in range(4):
            await collect(stage.requester, direct())
            await collect(stage.requester, Ask(greedy(), token_ids=(1, 2)))
        assert [len(router.calls) for router in routers] == [2, 2]
        assert [len(worker.calls) for worker in workers] == [6, 2]
        assert workers[0].calls[-1].token_ids == (1, 2) and workers[0].calls[-1].notify == ""

    play(scene)


def test_the_next_route_is_asked_for_early_from_the_second_request_on(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        workers = [await stage.worker(f"srv.{number}", five) for number in range(2)]
        turns = itertools.count()

        def decide(call: RouteCall) -> Route:
            chosen = workers[next(turns) % 2].instance
            return Route(call.request_id, call.attempt, None, chosen, "", early=True)

        router = await stage.router(decide)
        for asked in (1, 3, 4, 5):
            await collect(stage.requester, Ask(greedy(), "hello"))
            await until(lambda asked=asked: len(router.calls) == asked and not stage.requester._inbox.attempts)
        assert [call.early for call in router.calls] == [False, False, True, True, True]
        assert [len(worker.calls) for worker in workers] == [2, 2]
        await collect(stage.requester, Ask(greedy(), "hello", generation="srv.0"))
        assert router.calls[-1].generation == "srv.0"

    play(scene)


def test_an_early_route_to_a_server_that_has_gone_is_not_used(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        workers = [await stage.worker(f"srv.{number}", five) for number in range(2)]
        chosen = workers[0]

        def decide(call: RouteCall) -> Route:
            return Route(call.request_id, call.attempt, None, chosen.instance, "", early=True)

        router = await stage.router(decide)
        for asked in (1, 3):
            await collect(stage.requester, Ask(greedy(), "hello"))
            await until(lambda asked=asked: len(router.calls) == asked and not stage.requester._inbox.attempts)
        chosen = workers[1]
        await workers[0].registration.withdraw()
        await until(lambda: workers[0].instance not in stage.requester.snapshot.instances)
        assert len(await collect(stage.requester, Ask(greedy(), "hello"))) == 5
        assert len(workers[1].calls) == 1
        assert [call.early for call in router.calls[:4]] == [False, False, True, False]

    play(scene)


def test_a_server_that_does_everything_is_asked_directly(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        workers = [await stage.worker(f"srv.{number}", five) for number in range(2)]
        for ask in (direct(generation="srv.1"), direct(context="srv.1"), Ask(greedy(), component="tensorrt_llm")):
            assert len(await collect(stage.requester, ask)) == 5
        assert len(workers[1].calls) >= 2
        await fails(stage, direct(generation="srv.7"), "bad_request", r"no server 'srv\.7', it has srv\.0, srv\.1")

    play(scene)


def test_components_that_cannot_be_asked(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        await fails(stage, Ask(greedy()), "unavailable", "no component 'router'; registered is nobody")
        await disaggregated(stage, five)
        for word in ("tensorrt_llm", "tensorrt-llm", "tensorrt-llm-ctx", "tensorrt-llm-gen"):
            await fails(stage, Ask(greedy(), component=word), "bad_request", f"disaggregated, so {word} .* the router")
        known = "'x y'; registered is router, tensorrt-llm-ctx, tensorrt-llm-gen"
        await fails(stage, Ask(greedy(), component="x y"), "bad_request", known)

    play(scene)


@pytest.mark.parametrize("numbers", [(0, 2), (0, 1, 1), (1, 0), (0, 2, 1)], ids=str)
def test_a_gap_a_duplicate_or_a_wrong_order_is_an_error(play: Play, numbers: tuple[int, ...]) -> None:
    async def scene(stage: Stage) -> None:
        worker = await stage.worker("srv.0", chunks(*numbers))
        await fails(stage, direct(), "lost", r"a part of the answer is lost: srv\.0 is at")
        await until(lambda: len(worker.cancels) == 1)

    play(scene)


def test_older_attempts_are_dropped(play: Play) -> None:
    async def act(worker: Worker, call: GenerateCall) -> None:
        if call.attempt == 0:
            raise Refusal("stale", "it is another attempt's turn")
        first = worker.calls[0]
        await worker.say(first, Chunk(0, 0, (9,), "old"), Chunk(0, 7, (9,), "older"), Failure("engine", "late"))
        await worker.say(call, Chunk(0, 0, (9,), "old"), Failure("engine", "late", 0))
        await worker.speak(call, 5)

    async def scene(stage: Stage) -> None:
        await stage.worker("srv.0", act)
        await stage.worker("srv.1", act)
        pinned = await collect(stage.requester, direct())
        assert [one.text for one in pinned] == ["0 ", "1 ", "2 ", "3 ", "4 "]

    play(scene)


@pytest.mark.parametrize("code", ["unavailable", "stale", "overloaded"])
def test_a_refusal_that_another_server_may_not_share(play: Play, code: str) -> None:
    async def scene(stage: Stage) -> None:
        workers = [await stage.worker("srv.0", refuses(code)), await stage.worker("srv.1", five)]
        while not workers[0].calls:
            assert len(await collect(stage.requester, direct())) == 5
        (refused,) = workers[0].calls
        assert (workers[1].calls[-1].request_id, workers[1].calls[-1].attempt) == (refused.request_id, 1)
        await until(lambda: [(one.request_id, one.attempt) for one in workers[0].cancels] == [(refused.request_id, 0)])
        assert workers[1].cancels == []

    play(scene)


@pytest.mark.parametrize("code", ["bad_request", "engine", "internal", "too_large"])
def test_a_refusal_that_is_final(play: Play, code: str) -> None:
    async def scene(stage: Stage) -> None:
        workers = [await stage.worker(f"srv.{number}", refuses(code)) for number in range(2)]
        await fails(stage, direct(), code, "^no$")
        assert sum(len(worker.calls) for worker in workers) == 1

    play(scene)


def test_the_first_reason_is_told_when_nobody_is_left(play: Play) -> None:
    async def failing(worker: Worker, call: GenerateCall) -> None:
        await worker.say(call, Failure("overloaded", "the queue of gen.0 is full", call.attempt))

    async def scene(stage: Stage) -> None:
        router, (context,), (generation,) = await disaggregated(stage, failing)
        await fails(stage, Ask(greedy()), "overloaded", "the queue of gen.0 is full")
        assert [call.exclude for call in router.calls] == [(), *[(generation.instance.lease_hex,)] * 2]
        assert len(context.calls) == 1

    play(scene)


def test_nobody_listens(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        gone = await stage.worker("srv.0", five)
        await gone.deaf()
        await fails(stage, direct(), "unavailable", r"srv\.0 does not answer")
        other = await stage.worker("srv.1", five)
        for _ in range(2):
            assert len(await collect(stage.requester, direct())) == 5
        assert len(other.calls) == 2

    play(scene)


def test_closing_a_stream_cancels_it_everywhere(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        _, (context,), (generation,) = await disaggregated(stage, beginning)
        stream = stage.requester.stream(Ask(greedy(), request_id="r7"))
        await stream.__anext__()
        await stream.aclose()
        for worker in (context, generation):
            await until(lambda worker=worker: len(worker.cancels) == 1)  # type: ignore[misc]
            assert (worker.cancels[0].request_id, worker.cancels[0].attempt) == ("r7", 0)

    play(scene)


@pytest.mark.parametrize("started", [False, True])
def test_cancelling_the_taker_cancels_the_request(play: Play, started: bool) -> None:
    async def scene(stage: Stage) -> None:
        worker = await stage.worker("srv.0", beginning if started else nothing)
        answer = asyncio.ensure_future(collect(stage.requester, direct()))
        await until(lambda: len(worker.calls) == 1)
        answer.cancel()
        await until(lambda: len(worker.cancels) == 1)
        with pytest.raises(asyncio.CancelledError):
            await answer

    play(scene)


def test_the_deadline_is_for_the_whole_request(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        worker = await stage.worker("srv.0", beating)
        await fails(stage, direct(timeout=2.0), "deadline", r"not complete within 2 s")
        assert worker.calls[0].timeout <= 2.0
        await until(lambda: len(worker.cancels) == 1)

    play(scene)


def test_a_prompt_that_nats_does_not_carry_is_refused_before_it_is_sent(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        worker = await stage.worker("srv.0", five)
        large = Ask(greedy(), "x" * 8 * 1024 * 1024, component="tensorrt-llm")
        await fails(stage, large, "too_large", r"the request has 8388\d\d\d bytes and NATS takes at most 8388608")
        assert worker.calls == []
        assert len(await collect(stage.requester, direct())) == 5

    play(scene)


def test_credits_follow_what_was_taken(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        worker = await stage.worker("srv.0", speaks(1000))
        assert [one.token_ids[0] for one in await collect(stage.requester, direct())] == list(range(1000))
        half = WINDOW // 2
        granted = [one.until for one in worker.credits]
        steps = [after - before for before, after in zip([WINDOW, *granted], granted)]
        assert all(half <= step <= WINDOW for step in steps), granted
        assert 1000 <= granted[-1] <= 1000 + WINDOW

    play(scene)


def speaks(count: int) -> Act:
    async def act(worker: Worker, call: GenerateCall) -> None:
        await worker.speak(call, count)

    return act


def test_a_slow_taker_holds_up_nobody_else(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        worker = await stage.worker("srv.0", speaks(3000))
        slow = stage.requester.stream(direct())
        taken = [await slow.__anext__()]
        assert len(await collect(stage.requester, direct())) == 3000
        (waiting,) = stage.requester._inbox.attempts
        # A window that was taken at once and not read yet, and one behind it.
        await until(lambda: waiting.received >= WINDOW)
        assert waiting.received <= 2 * WINDOW
        taken += [one async for one in slow]
        assert [one.token_ids[0] for one in taken] == list(range(3000))
        assert worker.cancels == []

    play(scene)


def test_closing_the_requester_ends_its_requests(play: Play, nats_server: NatsServer) -> None:
    async def scene(stage: Stage) -> None:
        worker = await stage.worker("srv.0", nothing)
        async with Requester.open(stage.config, "another") as other:
            asked = asyncio.ensure_future(collect(other, direct()))
            await until(lambda: len(worker.calls) == 1)
        with pytest.raises(RequestError, match="the requester was closed"):
            await asked
        await until(lambda: bool(worker.cancels))

    play(scene)
