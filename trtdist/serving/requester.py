"""The requesting side: sends a request, receives its stream, and tries elsewhere while nothing was answered yet.

The requester owns the request. A router only says who serves; the tokens come straight from the server that
generates. Whoever stops reading a stream cancels it down to the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from trtdist.engines.base import Sampling
from trtdist.serving.attempt import ELSEWHERE, TICK_S, WINDOW, AtOnce, Attempt, ElsewhereError, RequestError
from trtdist.serving.discovery import Change, Instance, Snapshot, Watcher
from trtdist.serving.early_route import EarlyRoute
from trtdist.serving.etcd import EtcdClient, EtcdError, LeaseGoneError
from trtdist.serving.following import OPEN_S, Following
from trtdist.serving.front_door import FrontDoor, component_name
from trtdist.serving.inbox import Inbox
from trtdist.serving.nats_connection import connect, disconnect
from trtdist.serving.policies import prompt_of
from trtdist.serving.protocol import Cancel, Chunk, Credit, GenerateCall, Route, RouteCall
from trtdist.serving.run_config import RunConfig
from trtdist.serving.slug import MONOLITHIC, instance_prefix
from trtdist.serving.waiting import end_task

__all__ = ["Answer", "Ask", "RequestError", "Requester"]

MAX_ATTEMPTS = 3
SIGN_OF_LIFE_S = 5.0
# Longer than a broken connection is taken up again, shorter than a worker waits for a sign of life.
NATS_SILENCE_S = 20.0


@dataclass(frozen=True)
class Ask:
    """One request.

    `token_ids` is used when given, else `prompt`. `component` is `router`, or `tensorrt-llm` for a server that does
    everything itself. `context` and `generation` pin servers by their names in the plan (`ctx.0`, `gen.1`, `srv.0`),
    "" leaves the choice to the policy; prompts of one `session` are read by one server. `timeout` is for the whole
    request, in seconds. An empty `request_id` is filled in.
    """

    sampling: Sampling
    prompt: str = ""
    token_ids: tuple[int, ...] = ()
    component: str = "router"
    context: str = ""
    generation: str = ""
    timeout: float = 600.0
    request_id: str = ""
    session: str = ""


@dataclass(frozen=True)
class Answer:
    """What was added to the answer; `finish_reason` is None until the last, which also has the usage."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)


class Requester:
    """Sends requests to one run over one connection; made by `Requester.open`."""

    def __init__(self, namespace: str, inbox: Inbox, watcher: Watcher, etcd: EtcdClient, following: Following) -> None:
        self._inbox = inbox
        self._following = following
        self._watcher = watcher
        self._etcd = etcd
        self._door = FrontDoor(namespace)
        self._early = EarlyRoute(inbox)
        self._closed = ""
        self._ended = asyncio.Event()
        self._doubted: tuple[Instance, ...] = ()
        self._checks: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, config: RunConfig, name: str) -> AsyncIterator[Requester]:
        """Connect to a run; `name` shows in the NATS server's monitoring. TrtdistError when it cannot be reached."""
        following = Following(config.namespace, lambda heir: cls._joined(heir.config(config), name, following))
        async with cls._joined(config, name, following) as requester:
            try:
                yield requester
            finally:
                await following.close()

    @classmethod
    @contextlib.asynccontextmanager
    async def _joined(cls, config: RunConfig, name: str, following: Following) -> AsyncIterator[Requester]:
        """One of those that ask a run, or whichever takes over from it."""
        opened: list[Requester] = []

        def lost() -> None:
            for one in opened:
                one._close(f"the connection to NATS at {config.nats_url} is lost")

        etcd = EtcdClient(config.etcd_endpoints, config.etcd_tls)
        async with etcd, Watcher(etcd, instance_prefix(config.namespace)) as watcher:
            login = config.nats_user, config.nats_password
            client = await connect(config.nats_url, *login, name, lost=lost, tls=config.nats_tls)
            try:
                requester = cls(config.namespace, Inbox(client), watcher, etcd, following)
                opened.append(requester)
                async with requester._working():
                    yield requester
            finally:
                await disconnect(client)

    @property
    def snapshot(self) -> Snapshot:
        """Who serves now, in the run that has taken over if there is one."""
        return (self._following.opened or self)._watcher.snapshot

    async def handed_over(self) -> None:
        """Return once another run has taken over, to which new requests go from then on."""
        await self._following.told()

    async def ended(self) -> str:
        """Returns, with the reason, when no request can be sent any more, to a run that has taken over neither."""
        await self._ended.wait()
        heir = await self._following.heir(self, OPEN_S)
        return self._closed if heir is None else await heir.ended()

    async def idle(self) -> None:
        """Return when no request is under way at this run itself."""
        while self._inbox.attempts:
            await asyncio.sleep(TICK_S)

    async def stream(self, ask: Ask) -> AsyncGenerator[Answer, None]:
        """The answer as it comes; closing the iterator cancels the request. RequestError when it fails."""
        batches = self.batches(ask)
        try:
            async for batch in batches:
                for chunk in batch:
                    yield Answer(chunk.token_ids, chunk.text, chunk.finish_reason, dict(chunk.usage))
        finally:
            await batches.aclose()

    async def batches(self, ask: Ask, at_once: AtOnce | None = None) -> AsyncGenerator[list[Chunk], None]:
        """As `stream`, but all that has come at once: what a reader that is slower than the servers should take.

        `at_once` may take chunks in the middle of the stream before they are yielded, as Attempt says: what was yielded
        has been dealt with then.
        """
        request_id = ask.request_id or secrets.token_hex(16)
        deadline = asyncio.get_running_loop().time() + ask.timeout
        exclude: list[str] = []
        problem: RequestError | None = None
        for number in range(MAX_ATTEMPTS + 1):
            heir = await self._following.heir(self, deadline - asyncio.get_running_loop().time())
            if heir is not None:
                left = max(0.0, deadline - asyncio.get_running_loop().time())
                relayed = heir.batches(replace(ask, request_id=request_id, timeout=left), at_once)
                try:
                    async for batch in relayed:
                        yield batch
                finally:
                    await relayed.aclose()
                return
            if number == MAX_ATTEMPTS:
                break
            attempt = Attempt(request_id, number, at_once=at_once)
            async with self._receiving(attempt, ask, deadline) as inbox:
                try:
                    await self._start(ask, attempt, inbox, exclude, deadline)
                    while not attempt.finished:
                        chunks = await attempt.take()
                        if chunks:
                            yield chunks
                        if attempt.credit_due:
                            await self._give_credit(attempt)
                    return
                except RequestError as error:
                    # That no other server is left tells less than why the first one failed.
                    problem = error if attempt.servers or problem is None else problem
                    if not self._goes_on(attempt, error):
                        raise problem from None
                    exclude += error.suspects if isinstance(error, ElsewhereError) else ()
        if problem is not None:
            raise problem

    def _goes_on(self, attempt: Attempt, error: RequestError) -> bool:
        """Whether a request is tried once more, here or in the run that has taken over."""
        if attempt.received:
            return False
        if self._following.beyond(self):
            return error.code in ELSEWHERE
        return isinstance(error, ElsewhereError) and not self._closed

    async def _start(self, ask: Ask, attempt: Attempt, inbox: str, exclude: list[str], deadline: float) -> None:
        snapshot = self._watcher.snapshot
        notify = ""
        if component_name(ask.component) == MONOLITHIC:
            pinned = ask.generation or ask.context
            attempt.call(None, self._door.choose(ask.component, pinned, exclude, snapshot))
        else:
            route = await self._route(ask, attempt, inbox, exclude)
            attempt.call(route.context, route.generation)
            notify = route.notify
        called, last = attempt.servers[0], attempt.servers[-1]
        call = GenerateCall(
            request_id=attempt.request_id,
            attempt=attempt.number,
            inbox=inbox,
            window=WINDOW,
            timeout=max(0.0, deadline - asyncio.get_running_loop().time()),
            sampling=ask.sampling,
            prompt=ask.prompt,
            token_ids=ask.token_ids,
            generation=None if called is last else last,
            notify=notify,
        )
        await self._inbox.send(called.subject, call.encode(), f"{inbox}.accept")

    async def _route(self, ask: Ask, attempt: Attempt, inbox: str, exclude: list[str]) -> Route:
        """Who shall serve: as was asked for early, where nothing about this request matters, or as the router says."""
        router = self._door.choose(ask.component, "", exclude, self._watcher.snapshot)
        anyone = not (exclude or ask.context or ask.generation or ask.session)
        route = self._early.take(self._watcher.snapshot) if anyone else None
        if route is None:
            attempt.ask(router)
            pins = (tuple(exclude), ask.context, ask.generation)
            prompt = prompt_of(ask.prompt, ask.token_ids)
            about = (prompt.tokens, prompt.blocks, ask.session)
            asked = RouteCall(attempt.request_id, attempt.number, *pins, *about)
            await self._inbox.send(router.subject, asked.encode(), f"{inbox}.route")
            route = await attempt.route()
        if anyone:
            self._early.used(route, router)
        return route

    @contextlib.asynccontextmanager
    async def _receiving(self, attempt: Attempt, ask: Ask, deadline: float) -> AsyncIterator[str]:
        if self._closed:
            raise RequestError("unavailable", self._closed)
        timer = asyncio.get_running_loop().call_at(deadline, attempt.late, ask.timeout)
        try:
            with self._inbox.receiving(attempt) as inbox:
                yield inbox
        finally:
            timer.cancel()
            if not attempt.complete:
                await self._cancel(attempt)

    async def _cancel(self, attempt: Attempt) -> None:
        message = Cancel(attempt.request_id, attempt.number, "the requester does not want it any more").encode()
        with contextlib.suppress(RequestError):
            for server in attempt.servers:
                await self._inbox.send(server.control_subject, message)

    async def _give_credit(self, attempt: Attempt) -> None:
        message = Credit(attempt.request_id, attempt.number, attempt.grant()).encode()
        with contextlib.suppress(RequestError):
            for server in attempt.awaited if attempt.servers else ():
                await self._inbox.send(server.control_subject, message)

    @contextlib.asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        await self._inbox.subscribe()
        ticker = asyncio.ensure_future(self._tick())
        try:
            with self._watcher.calling(self._changed):
                self._following.look(self._watcher.snapshot.heir)
                yield
        finally:
            for task in (ticker, *self._checks):
                await end_task(task)
            await self._early.close()
            for attempt in self._inbox.attempts:
                await self._cancel(attempt)
            self._close("the requester was closed")

    def _close(self, reason: str) -> None:
        self._closed = self._closed or reason
        self._ended.set()
        if self._following.beyond(self):
            # The run before has gone, and its etcd with it.
            self._watcher.rest()
        for attempt in self._inbox.attempts:
            attempt.fail(RequestError("unavailable", reason))

    async def _tick(self) -> None:
        """Count time in which messages could have come: while NATS is silent, that no server is heard means nothing."""
        silent = RequestError("unavailable", f"NATS does not answer for {NATS_SILENCE_S:g} s: is it running?")
        quiet = 0
        for count in itertools.count(1):
            await asyncio.sleep(TICK_S)
            attempts = self._inbox.attempts
            if attempts:
                quiet = 0 if await self._inbox.nats_answered() else quiet + 1
            for attempt in attempts:
                if quiet > NATS_SILENCE_S / TICK_S:
                    attempt.fail(silent)
                elif not quiet:
                    attempt.tick()
                if count % int(SIGN_OF_LIFE_S / TICK_S) == 0 and not attempt.complete:
                    await self._give_credit(attempt)

    def _changed(self, change: Change) -> None:
        self._following.look(change.snapshot.heir)
        gone = (*self._doubted, *change.vanished)
        self._doubted = gone if change.snapshot.stale else ()
        if change.snapshot.stale:
            return
        involved = {server for attempt in self._inbox.attempts for server in attempt.awaited}
        for instance in involved.intersection(gone).difference(change.snapshot.instances):
            task = asyncio.ensure_future(self._check(instance))
            self._checks.add(task)
            task.add_done_callback(self._checks.discard)

    async def _check(self, instance: Instance) -> None:
        """A server that drains withdraws its key, and keeps its lease until its last answer is given."""
        try:
            await self._etcd.time_to_live(instance.lease_id)
        except LeaseGoneError:
            for attempt in self._inbox.attempts:
                attempt.vanished(instance)
        except EtcdError:
            return  # a dead server is also a silent one
