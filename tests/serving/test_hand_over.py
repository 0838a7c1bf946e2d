"""A context server hands requests on, and frees their KV cache when nobody takes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from tests.serving.deployment import Caller, Deployment, Running, deployment, scripted_plan
from tests.serving.scripted import until
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.engines.base import CONTEXT_ONLY, GENERATION_ONLY
from trtdist.serving import job, phases
from trtdist.serving.instance import Instance
from trtdist.serving.protocol import (
    Accepted,
    Cancel,
    Coming,
    Control,
    Failure,
    GenerateCall,
    Notice,
    decode_call,
    decode_control,
)
from trtdist.serving.slug import GENERATION

PLAN = scripted_plan(1, 1)


@dataclass
class Scene:
    """A context server, a place where a generation server may be, and a caller."""

    deployed: Deployment
    context: Running
    instance: Instance
    caller: Caller

    def elsewhere(self) -> Instance:
        """A generation server that is not registered."""
        return Instance.of(self.deployed.config.namespace, GENERATION, "generate", 7, "gen.7", "scripted")

    async def pretend(self, answer: bytes) -> list[GenerateCall]:
        """Play that server: give everybody this answer, none if it is empty; the calls that come."""
        calls: list[GenerateCall] = []

        async def take(message: Msg) -> None:
            calls.append(decode_call(message.data))
            if answer:
                await message.respond(answer)

        await self.deployed.nats.subscribe(self.elsewhere().subject, cb=take)
        return calls

    async def told(self) -> list[Control]:
        """What it is told beside the calls."""
        messages: list[Control] = []

        async def take(message: Msg) -> None:
            messages.append(decode_control(message.data))

        await self.deployed.nats.subscribe(self.elsewhere().control_subject, cb=take)
        return messages


Play = Callable[[], "contextlib.AbstractAsyncContextManager[Scene]"]


@pytest.fixture
def play(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> Play:
    @contextlib.asynccontextmanager
    async def scene() -> AsyncIterator[Scene]:
        async with deployment(tmp_path, nats_server, etcd_server, PLAN) as deployed:
            context, instance = await deployed.worker("ctx.0")
            yield Scene(deployed, context, instance, await Caller.at(deployed.nats))

    return scene


def test_request_crosses_both_servers(play: Play) -> None:
    async def main() -> None:
        async with play() as scene:
            generation, target = await scene.deployed.worker("gen.0")
            notices: list[Any] = []

            async def take(message: Msg) -> None:
                notices.append(decode_control(message.data))

            await scene.deployed.nats.subscribe("notices", cb=take)
            call = {"generation": target, "notify": "notices", "request_id": "r", "timeout": 20.0}
            await scene.caller.call(scene.instance, "count 5", **call)
            await scene.caller.finished()
            assert [number for chunk in scene.caller.chunks for number in chunk.token_ids] == [0, 1, 2, 3, 4]
            first, second = scene.context.engine.requests[0], generation.engine.requests[0]
            assert (first.request_type, first.sampling.max_tokens) == (CONTEXT_ONLY, 1)
            assert (second.request_type, second.sampling.max_tokens) == (GENERATION_ONLY, 16)
            assert second.disaggregated is not None and second.disaggregated.opaque_state == b"kv"
            assert scene.context.engine.released == []
            await until(lambda: len(notices) == 4)
            ends = {one.server: one for one in notices if one.event == "done"}
            assert ends[scene.instance.lease_hex] == Notice(
                "r", 0, "done", scene.instance.lease_hex, 7, 1, "handed_over"
            )
            assert ends[target.lease_hex].generated_tokens == 5

    asyncio.run(main())


def test_generation_server_gets_the_rest_of_the_time(play: Play) -> None:
    async def main() -> None:
        async with play() as scene:
            calls = await scene.pretend(Accepted().encode())
            await scene.caller.call(scene.instance, "count 5", generation=scene.elsewhere(), timeout=600.0, window=17)
            await until(lambda: len(calls) == 1)
            assert 500.0 < calls[0].timeout < 600.0 and calls[0].generation is None
            assert (calls[0].window, calls[0].inbox) == (17, scene.caller.inbox)

    asyncio.run(main())


def test_answer_that_ends_with_its_first_token(play: Play) -> None:
    async def main() -> None:
        async with play() as scene:
            calls = await scene.pretend(Accepted().encode())
            await scene.caller.call(scene.instance, "eos", generation=scene.elsewhere())
            last = await scene.caller.finished()
            assert (last.text, last.finish_reason, calls) == ("!", "stop", [])

    asyncio.run(main())


def test_the_generation_server_is_told_what_will_come_and_what_will_not(play: Play) -> None:
    async def main() -> None:
        async with play() as scene:
            await scene.pretend(Accepted().encode())
            told, target = await scene.told(), scene.elsewhere()
            await scene.caller.call(scene.instance, "eos", generation=target, request_id="a", attempt=3)
            await until(lambda: len(told) == 2)
            assert isinstance(told[0], Coming) and 0.0 < told[0].timeout <= 30.0
            assert told[1] == Coming("a", 3, 0.0) and told[0] == replace(told[1], timeout=told[0].timeout)
            await scene.caller.call(scene.instance, "count 5", generation=target, request_id="b")
            await scene.caller.call(scene.instance, "eos", generation=target, request_id="c")
            await until(lambda: Coming("c", 0, 0.0) in told)
            assert [one.request_id for one in told if isinstance(one, Coming) and one.timeout] == ["a", "b", "c"]
            assert Coming("b", 0, 0.0) not in told

    asyncio.run(main())


def test_heartbeats_while_the_prompt_is_worked_on(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "BEAT_S", 0.05)

    async def main() -> None:
        async with play() as scene:
            await scene.caller.call(scene.instance, "wait", generation=scene.elsewhere(), request_id="r")
            await until(lambda: len(scene.caller.beats) > 2)
            assert {beat.seq for beat in scene.caller.beats} == {0}
            message = Cancel("r", 0, "enough").encode()
            await scene.deployed.nats.publish(scene.instance.control_subject, message)
            assert (await scene.caller.failed()).code == "cancelled"
            await until(lambda: scene.context.engine.ended == ["r.0"])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (Failure("overloaded", "too much").encode(), "overloaded", "gen.7 refused the request: too much"),
        (b"what?", "unavailable", "gen.7 did not take the request"),
        (b"", "unavailable", "gen.7 did not take the request"),
    ],
)
def test_refused_hand_over_frees_the_cache(
    play: Play, answer: bytes, code: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not answer:
        monkeypatch.setattr(phases, "HAND_OVER_S", 0.3)

    async def main() -> None:
        async with play() as scene:
            await scene.pretend(answer)
            await scene.caller.call(scene.instance, "count 5", generation=scene.elsewhere())
            failure = await scene.caller.failed()
            assert failure.code == code and says in failure.message
            await until(lambda: scene.context.engine.released == [101])

    asyncio.run(main())


def test_hand_over_to_nobody(play: Play) -> None:
    async def main() -> None:
        async with play() as scene:
            await scene.caller.call(scene.instance, "count 5", generation=scene.elsewhere())
            assert (await scene.caller.failed()).code == "unavailable"
            await until(lambda: scene.context.engine.released == [101])

    asyncio.run(main())


def test_kv_state_over_the_payload_limit(play: Play) -> None:
    async def main() -> None:
        async with play() as scene:
            calls = await scene.pretend(Accepted().encode())
            await scene.caller.call(scene.instance, f"state {9 << 20}", generation=scene.elsewhere())
            failure = await scene.caller.failed()
            assert failure.code == "too_large" and "8388608 bytes" in failure.message
            await until(lambda: scene.context.engine.released == [101])
            assert calls == []

    asyncio.run(main())


def test_cache_is_freed_when_the_request_ends_after_the_hand_over(play: Play) -> None:
    async def main() -> None:
        async with play() as scene:
            calls = await scene.pretend(Accepted().encode())
            target, released = scene.elsewhere(), scene.context.engine.released
            for attempt in (0, 1):
                await scene.caller.call(scene.instance, "count 5", generation=target, request_id="r", attempt=attempt)
                await until(lambda count=attempt + 1: len(calls) == count)
            await until(lambda: released == [101])
            for _ in range(2):
                message = Cancel("r", 1, "gone").encode()
                await scene.deployed.nats.publish(scene.instance.control_subject, message)
            await until(lambda: released == [101, 102])
            await scene.caller.call(scene.instance, "count 5", generation=target, request_id="late", timeout=2.0)
            await until(lambda: released == [101, 102, 103])

    asyncio.run(main())
