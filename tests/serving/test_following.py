"""Clients follow a run to the one that takes over from it, as its etcd tells them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.serving.scripted import Refusal, Stage, Worker, collect, greedy, on_stage, until
from tests.serving.servers import EtcdServer, NatsServer, free_ports
from trtdist.services.heirs import HEIR, tell_heir
from trtdist.serving import following
from trtdist.serving.heir import Heir
from trtdist.serving.protocol import Chunk, GenerateCall
from trtdist.serving.requester import Ask, Requester, RequestError
from trtdist.serving.run_config import RunConfig
from trtdist.serving.slug import instance_prefix

Scene = Callable[[Stage, Stage], Awaitable[None]]
Play = Callable[[Scene], None]


@pytest.fixture
def play(nats_server: NatsServer, etcd_server: EtcdServer, namespace: str) -> Play:
    """Plays a scene on the stages of two runs, the second to take over from the first."""

    async def main(scene: Scene) -> None:
        async with (
            on_stage(nats_server, etcd_server, namespace) as before,
            on_stage(nats_server, etcd_server, f"{namespace}-next") as after,
        ):
            await scene(before, after)

    return lambda scene: asyncio.run(main(scene))


def env(config: RunConfig) -> dict[str, str]:
    """What resolved.env of a run would say."""
    etcd = ",".join(config.etcd_endpoints)
    return {"TRTDIST_RUN_ID": config.namespace, "NATS_SERVER": config.nats_url, "ETCD_ENDPOINTS": etcd}


def direct() -> Ask:
    return Ask(greedy(), "hello", component="tensorrt-llm")


async def five(worker: Worker, call: GenerateCall) -> None:
    await worker.speak(call, 5)


async def known(requester: Requester) -> None:
    await asyncio.wait_for(requester.handed_over(), 60)


def test_new_requests_go_to_the_heir_and_open_ones_end_where_they_are(play: Play) -> None:
    async def scene(before: Stage, after: Stage) -> None:
        go = asyncio.Event()

        async def later(worker: Worker, call: GenerateCall) -> None:
            await go.wait()
            await worker.speak(call, 5)

        old, new = await before.worker("srv.0", later), await after.worker("srv.0", five)
        open_one = asyncio.ensure_future(collect(before.requester, direct()))
        await until(lambda: len(old.calls) == 1)
        assert await tell_heir(env(before.config), env(after.config))
        await known(before.requester)
        answers = await collect(before.requester, direct())
        assert [one.text for one in answers] == ["0 ", "1 ", "2 ", "3 ", "4 "]
        assert (len(old.calls), len(new.calls)) == (1, 1)
        # Who serves is told of the run that has taken over.
        assert before.requester.snapshot.instances == after.requester.snapshot.instances
        go.set()
        assert len(await open_one) == 5
        async with Requester.open(before.config, "who comes late") as late:
            await collect(late, direct())
        assert (len(old.calls), len(new.calls)) == (1, 2)

    play(scene)


def test_a_request_that_was_not_answered_yet_is_tried_again_at_the_heir(play: Play) -> None:
    async def scene(before: Stage, after: Stage) -> None:
        async def leaves(worker: Worker, call: GenerateCall) -> None:
            assert await tell_heir(env(before.config), env(after.config))
            await known(before.requester)
            raise Refusal("unavailable")

        await before.worker("srv.0", leaves)
        new = await after.worker("srv.0", five)
        assert len(await collect(before.requester, direct())) == 5
        assert len(new.calls) == 1

    play(scene)


def test_who_stops_reading_cancels_at_the_heir(play: Play) -> None:
    async def scene(before: Stage, after: Stage) -> None:
        async def endless(worker: Worker, call: GenerateCall) -> None:
            await worker.say(call, Chunk(call.attempt, 0, (0,), "0 "))

        new = await after.worker("srv.0", endless)
        assert await tell_heir(env(before.config), env(after.config))
        await known(before.requester)
        async with contextlib.aclosing(before.requester.stream(direct())) as stream:
            async for _ in stream:
                break
        await until(lambda: [one.request_id for one in new.cancels] == [new.calls[0].request_id])

    play(scene)


def test_a_run_that_cannot_be_reached_leaves_requests_where_they_were(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "OPEN_S", 0.2)

    async def scene(before: Stage, after: Stage) -> None:
        old = await before.worker("srv.0", five)
        nobody = {**env(after.config), "ETCD_ENDPOINTS": f"http://127.0.0.1:{free_ports(1)[0]}"}
        assert await tell_heir(env(before.config), nobody)
        await known(before.requester)
        assert len(await collect(before.requester, direct())) == 5
        assert len(old.calls) == 1

    play(scene)


def test_the_wait_for_the_heir_ends_with_the_time_for_the_answer(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "OPEN_S", 3600.0)

    async def scene(before: Stage, after: Stage) -> None:
        await before.worker("srv.0", five)
        # Accepts connections and says nothing.
        with socket.create_server(("127.0.0.1", 0)) as silent:
            nobody = {**env(after.config), "ETCD_ENDPOINTS": f"http://127.0.0.1:{silent.getsockname()[1]}"}
            assert await tell_heir(env(before.config), nobody)
            await known(before.requester)
            with pytest.raises(RequestError) as raised:
                await asyncio.wait_for(collect(before.requester, replace(direct(), timeout=0.3)), 60)
        assert raised.value.code == "deadline"

    play(scene)


def test_a_request_without_a_token_goes_to_the_heir_when_nats_goes(play: Play) -> None:
    async def scene(before: Stage, after: Stage) -> None:
        async def silent(worker: Worker, call: GenerateCall) -> None:
            await asyncio.Event().wait()

        async def begun(worker: Worker, call: GenerateCall) -> None:
            await worker.say(call, Chunk(call.attempt, 0, (0,), "0 "))
            await asyncio.Event().wait()

        old, new = await before.worker("srv.0", silent), await after.worker("srv.0", five)
        waiting = asyncio.ensure_future(collect(before.requester, direct()))
        await until(lambda: len(old.calls) == 1)
        old.act = begun
        heard: list[str] = []

        async def read() -> None:
            async for answer in before.requester.stream(direct()):
                heard.append(answer.text)

        open_one = asyncio.ensure_future(read())
        await until(lambda: heard == ["0 "])
        assert await tell_heir(env(before.config), env(after.config))
        await known(before.requester)
        # As when the connection is lost for good.
        before.requester._close("the connection to NATS is lost")
        assert len(await asyncio.wait_for(waiting, 30)) == 5
        assert len(new.calls) == 1
        with pytest.raises(RequestError, match="the connection to NATS is lost"):
            await asyncio.wait_for(open_one, 30)

    play(scene)


def test_of_several_heirs_one_after_the_other_only_the_newest_is_held(
    nats_server: NatsServer, etcd_server: EtcdServer, namespace: str
) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            names = [namespace, *(f"{namespace}-{number}" for number in (1, 2, 3))]
            stages = [await stack.enter_async_context(on_stage(nats_server, etcd_server, name)) for name in names]
            first = stages[0].requester
            followed = first._following
            go = asyncio.Event()

            async def later(worker: Worker, call: GenerateCall) -> None:
                await go.wait()
                await worker.speak(call, 5)

            workers = [await stage.worker("srv.0", later if stage is stages[1] else five) for stage in stages]
            assert await tell_heir(env(stages[0].config), env(stages[1].config))
            await known(first)
            open_one = asyncio.ensure_future(collect(first, direct()))
            await until(lambda: len(workers[1].calls) == 1, 30)
            for before, after in itertools.pairwise(stages[1:]):
                assert await tell_heir(env(before.config), env(after.config))
            await until(lambda: first.snapshot.instances == stages[3].view.snapshot.instances, 30)
            assert len(await collect(first, direct())) == 5
            # The one before goes with its last answer.
            assert not open_one.done()
            go.set()
            assert len(await asyncio.wait_for(open_one, 30)) == 5
            await until(lambda: len(followed._holding) == 1, 30)
            assert [len(worker.calls) for worker in workers] == [0, 1, 0, 1]
            # That the first names the second once more, as after a broken watch, changes nothing.
            assert await tell_heir(env(stages[0].config), env(stages[1].config))
            assert len(await collect(first, direct())) == 5
            assert [len(worker.calls) for worker in workers] == [0, 1, 0, 2]

    asyncio.run(main())


@pytest.mark.parametrize("value", [b"", b"{}", b"[1]", b'{"run": "a/b", "nats": "n", "etcd": ["e"]}', b"{" * 99])
def test_a_key_that_names_no_run_is_told_and_passed_over(play: Play, value: bytes) -> None:
    async def scene(before: Stage, after: Stage) -> None:
        old = await before.worker("srv.0", five)
        await before.etcd.put(f"{instance_prefix(before.config.namespace)}{HEIR}", value)
        await before.view.wait_for(lambda seen: bool(seen.rejected), 60, "the key")
        assert before.view.snapshot.heir is None
        assert len(await collect(before.requester, direct())) == 5
        assert len(old.calls) == 1

    play(scene)


def test_an_etcd_that_outlives_the_run_does_not_keep_the_key_for_ever(play: Play) -> None:
    async def scene(before: Stage, after: Stage) -> None:
        assert await tell_heir(env(before.config), env(after.config))
        kept = await before.etcd.get(f"{instance_prefix(before.config.namespace)}{HEIR}")
        assert kept is not None
        assert 0 < await before.etcd.time_to_live(kept.lease) <= 7 * 86400
        await known(before.requester)
        await before.etcd.revoke(kept.lease)
        # Who has heard of it goes there all the same.
        await before.view.wait_for(lambda seen: seen.heir is None, 30, "its end")
        new = await after.worker("srv.0", five)
        await until(lambda: len(before.requester.snapshot.instances) == 1, 60)
        assert len(await collect(before.requester, direct())) == 5
        assert len(new.calls) == 1

    play(scene)


def test_nobody_is_told_where_there_is_no_etcd() -> None:
    assert not asyncio.run(tell_heir({"TRTDIST_RUN_ID": "a"}, {"TRTDIST_RUN_ID": "b"}))


def test_an_heir_that_opens_after_a_later_one_is_let_go() -> None:
    """Its task ends without an error, and the later one stays the newest."""

    async def main() -> None:
        doors = {"b": asyncio.Event(), "c": asyncio.Event()}
        left: list[str] = []
        first = _Idle()

        @contextlib.asynccontextmanager
        async def opening(heir: Heir) -> AsyncIterator[Any]:
            await doors[heir.run].wait()
            try:
                yield first if heir.run == "b" else _Idle()
            finally:
                left.append(heir.run)

        follows = following.Following("a", opening)
        for run in doors:
            follows.look(Heir(run, "nats://nowhere", ()))
        doors["c"].set()
        await until(lambda: follows.opened is not None)
        newest = follows.opened
        doors["b"].set()
        await until(lambda: left == ["b"])
        assert follows.opened is newest is not first
        await follows.close()
        assert left == ["b", "c"]

    problems: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        await main()

    asyncio.run(watched())
    gc.collect()
    assert problems == []


class _Idle:
    """What `Following` needs of a requester that has nothing to do."""

    async def idle(self) -> None:
        """At once."""
