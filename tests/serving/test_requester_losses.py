"""Requests that meet silence, and the loss of servers, of NATS or of etcd."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TypeVar

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
    played,
)
from tests.serving.scripted import Stage, Worker, collect, greedy, until
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.serving import attempt as attempts
from trtdist.serving import nats_connection
from trtdist.serving import requester as requesters
from trtdist.serving.attempt import WINDOW
from trtdist.serving.protocol import Chunk, GenerateCall, Heartbeat
from trtdist.serving.requester import Ask, RequestError
from trtdist.serving.waiting import within

T = TypeVar("T")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes 5 s takes a quarter of a second."""
    monkeypatch.setattr(attempts, "SILENCE_S", 0.25)
    monkeypatch.setattr(attempts, "TICK_S", 0.05)
    monkeypatch.setattr(requesters, "TICK_S", 0.05)
    monkeypatch.setattr(requesters, "SIGN_OF_LIFE_S", 0.1)


def test_silence_before_the_first_token_is_tried_elsewhere(play: Play, impatient: None) -> None:
    async def scene(stage: Stage) -> None:
        router, (context,), generation = await disaggregated(stage, nothing, five)

        async def alive(worker: Worker, call: GenerateCall) -> None:
            await worker.say(call, Heartbeat(call.attempt, 0, worker.instance.lease_hex))

        generation[0].act = alive
        assert len(await collect(stage.requester, Ask(greedy()))) == 5
        assert [call.attempt for call in context.calls] == [0, 1]
        assert router.calls[1].exclude == (generation[0].instance.lease_hex,)
        await until(lambda: len(context.cancels) == len(generation[0].cancels) == 1)

    play(scene)


def test_a_silent_router(play: Play, impatient: None) -> None:
    async def scene(stage: Stage) -> None:
        await stage.router(lambda call: None)
        await fails(stage, Ask(greedy()), "stalled", r"nothing came from router for 0\.25 s")

    play(scene)


def test_silence_after_the_first_token_is_an_error(play: Play, impatient: None) -> None:
    async def scene(stage: Stage) -> None:
        workers = [await stage.worker(f"srv.{number}", chunks(0, 1)) for number in range(2)]
        await fails(stage, direct(), "stalled", r"nothing came from srv\.0 for 0\.25 s, after 2 chunks of the answer")
        assert sum(len(worker.calls) for worker in workers) == 1

    play(scene)


def test_heartbeats_keep_a_request_and_credits_tell_of_its_requester(play: Play, impatient: None) -> None:
    async def slow(worker: Worker, call: GenerateCall) -> None:
        while len(worker.credits) < 6:
            await worker.say(call, Heartbeat(call.attempt, 0, worker.instance.lease_hex))
            await asyncio.sleep(0.05)
        await worker.speak(call, 5)

    async def scene(stage: Stage) -> None:
        _, (context,), (generation,) = await disaggregated(stage, slow)
        assert len(await collect(stage.requester, Ask(greedy()))) == 5
        assert {one.until for one in (*context.credits, *generation.credits)} == {WINDOW}
        assert len(context.credits) >= 5

    play(scene)


def test_a_lease_that_ends_before_the_first_token(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        router, _, generation = await disaggregated(stage, beating, five)
        answer = asyncio.ensure_future(collect(stage.requester, Ask(greedy())))
        await until(lambda: bool(router.calls) and bool(generation[0].tasks))
        await generation[0].die()
        assert len(await within(60, _value(answer))) == 5
        assert router.calls[1].exclude == (generation[0].instance.lease_hex,)

    play(scene)


async def _value(task: asyncio.Task[T]) -> T:
    return await task


def test_a_lease_that_ends_after_the_first_token(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        worker = await stage.worker("srv.0", beginning)
        stream = stage.requester.stream(direct())
        assert [(await stream.__anext__()).text for _ in range(2)] == ["0 ", "1 "]
        await worker.die()
        with pytest.raises(RequestError, match=r"srv\.0 is gone, after 2 chunks of the answer"):
            await within(60, _value(asyncio.ensure_future(stream.__anext__())))  # type: ignore[arg-type]

    play(scene)


def test_a_server_that_drains_finishes_its_answers(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        go_on = asyncio.Event()

        async def draining(worker: Worker, call: GenerateCall) -> None:
            await worker.say(call, Chunk(0, 0, (0,), "0 "))
            await worker.registration.withdraw()
            await go_on.wait()
            await worker.say(call, Chunk(0, 1, (1,), "1 ", "stop"))

        await stage.worker("srv.0", draining)
        answer = asyncio.ensure_future(collect(stage.requester, direct()))
        await stage.view.wait_for(lambda seen: not seen.instances, 60, "the withdrawal")
        await until(lambda: not stage.requester._checks)
        go_on.set()
        assert [one.text for one in await answer] == ["0 ", "1 "]

    play(scene)


def test_etcd_goes_away_while_an_answer_comes(nats_server: NatsServer, tmp_path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stream = stage.requester.stream(direct())
        await stage.worker("srv.0", nagging)
        await stream.__anext__()
        server.kill()
        await stage.view.wait_for(lambda seen: bool(seen.stale), 60, "the loss of etcd")
        assert len([one async for one in stream]) == 999

    async def nagging(worker: Worker, call: GenerateCall) -> None:
        await worker.speak(call, 1000)

    with EtcdServer(tmp_path) as server:
        asyncio.run(played(scene, nats_server, server, "lonely"))


def test_losing_nats_ends_all_requests(
    etcd_server: EtcdServer, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_connection, "RECONNECT_ATTEMPTS", 2)
    monkeypatch.setattr(nats_connection, "RECONNECT_PAUSE_S", 0.05)

    async def scene(stage: Stage) -> None:
        worker = await stage.worker("srv.0", nothing)
        asked = [asyncio.ensure_future(collect(stage.requester, direct())) for _ in range(3)]
        await until(lambda: len(worker.calls) == 3)
        server.kill()
        for one in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(one, RequestError) and one.code == "unavailable"
            assert str(one) == f"the connection to NATS at {server.url} is lost"
        await fails(stage, direct(), "unavailable", "is lost")

    with NatsServer(tmp_path) as server:
        asyncio.run(played(scene, server, etcd_server, namespace))


def test_a_pause_of_nats_is_no_silence_of_a_server(
    etcd_server: EtcdServer, namespace: str, tmp_path: Path, impatient: None
) -> None:
    async def scene(stage: Stage) -> None:
        over = asyncio.Event()

        async def answer(worker: Worker, call: GenerateCall) -> None:
            while not over.is_set():
                await worker.say(call, Heartbeat(call.attempt, 0, worker.instance.lease_hex))
                await asyncio.sleep(0.05)
            await worker.speak(call, 5)

        async def begin(worker: Worker, call: GenerateCall) -> None:
            worker.tasks.append(asyncio.ensure_future(answer(worker, call)))

        worker = await stage.worker("srv.0", begin)
        asked = [asyncio.ensure_future(collect(stage.requester, direct())) for _ in range(20)]
        await until(lambda: len(worker.calls) == 20)
        server.send(signal.SIGSTOP)
        await asyncio.sleep(4 * attempts.SILENCE_S)
        server.send(signal.SIGCONT)
        over.set()
        assert [len(answer) for answer in await asyncio.gather(*asked)] == [5] * 20

    with NatsServer(tmp_path) as server:
        asyncio.run(played(scene, server, etcd_server, namespace))


def test_nats_that_stays_silent_is_named(
    etcd_server: EtcdServer, namespace: str, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requesters, "NATS_SILENCE_S", 0.5)

    async def scene(stage: Stage) -> None:
        worker = await stage.worker("srv.0", nothing)
        asked = asyncio.ensure_future(collect(stage.requester, direct()))
        await until(lambda: len(worker.calls) == 1)
        server.send(signal.SIGSTOP)
        with pytest.raises(RequestError, match=r"NATS does not answer for 0\.5 s") as caught:
            await asked
        assert caught.value.code == "unavailable"
        server.send(signal.SIGCONT)

    with NatsServer(tmp_path) as server:
        asyncio.run(played(scene, server, etcd_server, namespace))
