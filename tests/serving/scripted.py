"""A router and workers that do what a test says, made of the protocol alone, on real NATS and etcd servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tests.serving.servers import EtcdServer, NatsServer
from trtdist.engines.base import Sampling
from trtdist.rundir import RunDir
from trtdist.serving.discovery import Instance, Registration, Watcher
from trtdist.serving.etcd import EtcdClient
from trtdist.serving.nats_connection import connection
from trtdist.serving.protocol import (
    Accepted,
    Cancel,
    Chunk,
    Control,
    Credit,
    Failure,
    GenerateCall,
    Heartbeat,
    Route,
    RouteCall,
    decode_call,
    decode_control,
    decode_route_call,
)
from trtdist.serving.requester import Answer, Ask, Requester
from trtdist.serving.run_config import RunConfig
from trtdist.serving.slug import CONTEXT, GENERATION, MONOLITHIC, ROUTER

__all__ = ["Act", "Refusal", "Router", "Stage", "Worker", "collect", "greedy", "on_stage", "until"]

Act = Callable[["Worker", GenerateCall], Awaitable[None]]
Decide = Callable[[RouteCall], "Route | Failure | None"]


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once the condition holds; fails when that takes too long."""
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


async def collect(requester: Requester, ask: Ask) -> list[Answer]:
    """The whole answer."""
    return [answer async for answer in requester.stream(ask)]


@dataclass
class Worker:
    """One instance that acts as told for each call; what reached it is kept."""

    nats: Client
    instance: Instance
    act: Act
    registration: Registration
    calls: list[GenerateCall] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    listening: Subscription | None = None

    @property
    def cancels(self) -> list[Cancel]:
        """The cancellations that came."""
        return [message for message in self.controls if isinstance(message, Cancel)]

    @property
    def credits(self) -> list[Credit]:
        """The credits that came."""
        return [message for message in self.controls if isinstance(message, Credit)]

    async def listen(self) -> None:
        """Take calls and control messages."""
        await self.nats.subscribe(self.instance.control_subject, cb=self.controlled)
        self.listening = await self.nats.subscribe(self.instance.subject, cb=self.called)

    async def deaf(self) -> None:
        """Take no more calls, but stay registered."""
        assert self.listening is not None
        await self.listening.unsubscribe()
        await self.nats.flush()

    async def die(self) -> None:
        """Give the lease back, as etcd does when nobody renews it."""
        await self.registration.__aexit__(None, None, None)

    async def called(self, message: Msg) -> None:
        """Accept and act, or refuse when the test says so."""
        call = decode_call(message.data)
        self.calls.append(call)
        self.tasks.append(asyncio.ensure_future(self._answer(call, message)))

    async def controlled(self, message: Msg) -> None:
        """Keep a control message."""
        self.controls.append(decode_control(message.data))
        self.changed.set()

    async def say(self, call: GenerateCall, *messages: Chunk | Heartbeat | Failure) -> None:
        """Send messages of a stream as they are."""
        for message in messages:
            await self.nats.publish(call.inbox, message.encode())

    async def speak(self, call: GenerateCall, count: int) -> None:
        """Stream `count` chunks within the credits, the last with a finish reason; heartbeats while waiting."""
        allowed = call.window
        for seq in range(count):
            while seq >= allowed:
                self.changed.clear()
                mine = [one.until for one in self.credits if one.request_id == call.request_id]
                allowed = max([call.window, *mine[-1:]])
                if any(one.request_id == call.request_id and one.attempt >= call.attempt for one in self.cancels):
                    return
                if seq >= allowed:
                    await self.say(call, Heartbeat(call.attempt, seq, self.instance.lease_hex))
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self.changed.wait(), 1.0)
            reason = "length" if seq == count - 1 else None
            await self.say(call, Chunk(call.attempt, seq, (seq,), f"{seq} ", reason, {"n": count} if reason else {}))
            if seq % 64 == 0:
                await asyncio.sleep(0)

    async def _answer(self, call: GenerateCall, message: Msg) -> None:
        try:
            await self.act(self, call)
        except Refusal as refusal:
            await message.respond(refusal.failure.encode())
        else:
            await message.respond(Accepted().encode())


class Refusal(Exception):
    """Raised by an act: the worker refuses the call."""

    def __init__(self, code: str, sentence: str = "no") -> None:
        super().__init__(sentence)
        self.failure = Failure(code, sentence)


@dataclass
class Router:
    """A router that decides as told."""

    instance: Instance
    decide: Decide
    calls: list[RouteCall] = field(default_factory=list)

    async def called(self, message: Msg) -> None:
        """Answer, or keep silent when the test says None."""
        call = decode_route_call(message.data)
        self.calls.append(call)
        answer = self.decide(call)
        if answer is not None:
            await message.respond(answer.encode())


@dataclass
class Stage:
    """One run with its servers' connection, its requester, and what is put on it."""

    nats: Client
    etcd: EtcdClient
    config: RunConfig
    stack: contextlib.AsyncExitStack
    requester: Requester

    @property
    def view(self) -> Watcher:
        """What the requester knows of the run."""
        return self.requester._watcher

    async def worker(self, server: str, act: Act, ttl: int = 10) -> Worker:
        """A worker under its name in the plan."""
        component = {"ctx": CONTEXT, "gen": GENERATION, "srv": MONOLITHIC}[server.split(".")[0]]
        registration = await self.stack.enter_async_context(Registration(self.etcd, ttl))
        instance = Instance.of(self.config.namespace, component, "generate", registration.lease_id, server, "reference")
        worker = Worker(self.nats, instance, act, registration)
        self.stack.push_async_callback(_end, worker.tasks)
        await worker.listen()
        await self._publish(registration, instance)
        return worker

    async def router(self, decide: Decide) -> Router:
        """A router."""
        registration = await self.stack.enter_async_context(Registration(self.etcd))
        instance = Instance.of(self.config.namespace, ROUTER, "generate", registration.lease_id, "router")
        router = Router(instance, decide)
        await self.nats.subscribe(instance.subject, cb=router.called)
        await self._publish(registration, instance)
        return router

    async def _publish(self, registration: Registration, instance: Instance) -> None:
        await self.nats.flush()
        await registration.publish(instance)
        await self.view.wait_for(lambda seen: seen.lease(instance.lease_id) is not None, 60, instance.server)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [one for one in results if isinstance(one, Exception)] == []


@contextlib.asynccontextmanager
async def on_stage(nats_server: NatsServer, etcd_server: EtcdServer, namespace: str) -> AsyncIterator[Stage]:
    """A run without servers, and a requester for it."""
    config = RunConfig(
        RunDir(Path(namespace)), nats_server.url, nats_server.user, nats_server.password, (etcd_server.endpoint,)
    )
    async with contextlib.AsyncExitStack() as stack:
        nats = await stack.enter_async_context(
            connection(config.nats_url, config.nats_user, config.nats_password, "servers")
        )
        etcd = await stack.enter_async_context(EtcdClient(config.etcd_endpoints))
        requester = await stack.enter_async_context(Requester.open(config, "a test"))
        yield Stage(nats, etcd, config, stack, requester)


def greedy(max_tokens: int = 16) -> Sampling:
    """What most tests ask for."""
    return Sampling(max_tokens=max_tokens, temperature=0.0)
