"""What requesters are asked for on a stage, and what the servers there do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.serving.scripted import Act, Refusal, Router, Stage, Worker, collect, greedy, on_stage
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.serving.protocol import Chunk, Failure, GenerateCall, Heartbeat, Route, RouteCall
from trtdist.serving.requester import Ask, RequestError

Scene = Callable[[Stage], Awaitable[None]]
Play = Callable[[Scene], None]


async def played(scene: Scene, nats_server: NatsServer, etcd_server: EtcdServer, namespace: str) -> None:
    async with on_stage(nats_server, etcd_server, namespace) as stage:
        await scene(stage)


async def five(worker: Worker, call: GenerateCall) -> None:
    await worker.speak(call, 5)


async def nothing(worker: Worker, call: GenerateCall) -> None:
    """Accepts and stays silent."""


def refuses(code: str) -> Act:
    async def act(worker: Worker, call: GenerateCall) -> None:
        raise Refusal(code)

    return act


def direct(**fields: object) -> Ask:
    return Ask(greedy(), "hello", component="tensorrt-llm", **fields)  # type: ignore[arg-type]


async def fails(stage: Stage, ask: Ask, code: str, pattern: str) -> None:
    with pytest.raises(RequestError, match=pattern) as caught:
        await collect(stage.requester, ask)
    assert caught.value.code == code


async def disaggregated(stage: Stage, *acts: Act) -> tuple[Router, list[Worker], list[Worker]]:
    """One context server, a generation server for each act, and a router that takes the first that is not excluded."""
    generation = [await stage.worker(f"gen.{number}", act) for number, act in enumerate(acts)]

    async def hand_over(worker: Worker, call: GenerateCall) -> None:
        assert call.generation is not None
        chosen = next(one for one in generation if one.instance == call.generation)
        chosen.tasks.append(asyncio.ensure_future(chosen.act(chosen, call)))

    context = [await stage.worker("ctx.0", hand_over)]

    def decide(call: RouteCall) -> Route | Failure:
        left = [one for one in generation if one.instance.lease_hex not in call.exclude]
        if not left:
            return Failure("unavailable", "no generation server is left")
        return Route(call.request_id, call.attempt, context[0].instance, left[0].instance, "notices")

    return await stage.router(decide), context, generation


def chunks(*numbers: int) -> Act:
    """Sends chunks with these numbers, then goes on with heartbeats of the one after."""

    async def act(worker: Worker, call: GenerateCall) -> None:
        await worker.say(call, *(Chunk(call.attempt, seq, (seq,), f"{seq} ") for seq in numbers))
        await worker.say(call, Heartbeat(call.attempt, numbers[-1] + 1, worker.instance.lease_hex))

    return act


async def beating(worker: Worker, call: GenerateCall) -> None:
    """Says that it is alive until it is cancelled."""
    while not worker.cancels:
        await worker.say(call, Heartbeat(call.attempt, 0, worker.instance.lease_hex))
        await asyncio.sleep(0.2)


async def beginning(worker: Worker, call: GenerateCall) -> None:
    await chunks(0, 1)(worker, call)
