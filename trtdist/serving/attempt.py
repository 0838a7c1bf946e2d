"""One attempt of a request as the requester sees it: chunks in their order, or one error.

Nothing here touches the network: what arrives is handed in, and time is counted in ticks, of which a process that was
stopped gets only one for the whole pause, so that it never takes its own absence for the silence of a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from trtdist.errors import TrtdistError
from trtdist.serving.instance import Instance
from trtdist.serving.protocol import (
    CODES,
    Chunk,
    Failure,
    Heartbeat,
    Route,
    decode_answer,
    decode_route,
    decode_stream,
)
from trtdist.serving.wire import ProtocolError

__all__ = ["ELSEWHERE", "SILENCE_S", "TICK_S", "WINDOW", "AtOnce", "Attempt", "ElsewhereError", "RequestError"]

# Chunks that may be on their way or wait for their taker.
WINDOW = 256
TICK_S, SILENCE_S = 0.5, 5.0
ELSEWHERE = frozenset({"unavailable", "stale", "overloaded"})
NO_RESPONDERS = "503"

# Takes chunks without waiting for anything, or refuses them.
AtOnce = Callable[[Sequence[Chunk]], bool]


class RequestError(TrtdistError):
    """A request failed: `code` is one of `protocol.CODES`, the message one sentence.

    `server` is the name of the server that had the request when its time was over, "" when that is not why.
    """

    def __init__(self, code: str, message: str, server: str = "") -> None:
        super().__init__(message)
        self.code = code if code in CODES else "internal"
        self.server = server


class ElsewhereError(RequestError):
    """An attempt failed in a way that others may not; `suspects` are the lease ids (hex) to avoid from now on."""

    def __init__(self, code: str, message: str, suspects: tuple[str, ...] = ()) -> None:
        super().__init__(code, message)
        self.suspects = suspects


class Attempt:
    """Receives what comes for one attempt; one consumer takes it.

    `received` and `taken` count chunks. `servers` are those that take part, the one that generates last; empty until
    they are known. An error comes after the chunks that arrived before it.

    `at_once` is offered the chunks that arrived with one read, unless the last of the stream is among them; where it
    returns False, they wait as others do.
    """

    def __init__(self, request_id: str, number: int, window: int = WINDOW, at_once: AtOnce | None = None) -> None:
        self.request_id = request_id
        self.number = number
        self.received = 0
        self.taken = 0
        self.servers: tuple[Instance, ...] = ()
        self._at_once = at_once
        self._window = window
        self._allowed = window
        self._chunks: list[Chunk] = []
        self._complete = self._grant_asked = False
        self._error: RequestError | None = None
        self._asked: Instance | None = None
        self._route: Route | None = None
        self._speaker = self._generator = ""
        self._quiet_ticks = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is expected: the last chunk arrived, or an error."""
        return self._complete or self._error is not None

    @property
    def complete(self) -> bool:
        """Whether the last chunk arrived; the servers have nothing left to cancel then."""
        return self._complete

    @property
    def finished(self) -> bool:
        """Whether the last chunk was taken."""
        return self._complete and not self._chunks

    @property
    def credit_due(self) -> bool:
        """Whether half a window was taken since the last grant."""
        return not self._complete and self.taken + self._window - self._allowed >= self._window // 2

    def grant(self) -> int:
        """Allow one window beyond what was taken; returns the number below which chunks may come."""
        self._allowed = self.taken + self._window
        return self._allowed

    @property
    def awaited(self) -> tuple[Instance, ...]:
        """Whose end would be the attempt's: the router, then both servers, after the first chunk who generates."""
        if not self.servers:
            return () if self._asked is None else (self._asked,)
        return self.servers[-1:] if self.received else self.servers

    @property
    def _holder(self) -> Instance | None:
        """Who works on it, as far as is known: whoever spoke last, before that whoever was asked."""
        return next((one for one in self.servers if one.lease_hex == self._speaker), self._asked)

    def ask(self, router: Instance) -> None:
        """A router was asked who shall serve."""
        self._asked = router

    def call(self, context: Instance | None, generation: Instance) -> None:
        """These servers were chosen; the first of them is called."""
        self.servers = (generation,) if context is None else (context, generation)
        self._generator = generation.lease_hex
        self._asked = self.servers[0]
        self._quiet_ticks = 0

    def deliver(self, kind: str, data: bytes, status: str) -> None:
        """Take a message: `kind` is `route` or `accept` for an answer, "" for one of the stream.

        `status` is what NATS itself says, `503` when nobody listens. `settle` must be called before the event loop has
        another turn.
        """
        if self._complete or self._error is not None:
            return
        try:
            if not kind and not status:
                self._streamed(decode_stream(data))
            elif status == NO_RESPONDERS:
                self._elsewhere("unavailable", f"{self._name(self._asked)} does not answer", self._suspects())
            elif kind == "route":
                self._routed(decode_route(data))
            elif kind == "accept":
                answer = decode_answer(data)
                self._quiet_ticks = 0
                if isinstance(answer, Failure):
                    self._failed(answer, self._suspects())
        except ProtocolError as error:
            self.fail(RequestError("internal", f"a message for request {self.request_id} makes no sense: {error}"))

    def settle(self) -> None:
        """Pass on the chunks that were delivered."""
        if not self._chunks:
            return
        taken = False
        try:
            taken = not self._complete and self._at_once is not None and self._at_once(self._chunks)
        finally:
            # Whoever takes the same chunks then meets what it raised.
            if not taken:
                self._wake()
        if taken:
            self.taken += len(self._chunks)
            self._chunks = []
            if self.credit_due:
                self._grant_asked = True
                self._wake()

    def tick(self) -> None:
        """TICK_S passed in which this process could have seen a message."""
        self._quiet_ticks += 1
        if self.ended or self._quiet_ticks <= SILENCE_S / TICK_S:
            return
        silent = self._holder
        suspects = () if silent is None else (silent.lease_hex,)
        self._elsewhere("stalled", f"nothing came from {self._name(silent)} for {SILENCE_S:g} s", suspects)

    def late(self, seconds: float) -> None:
        """The time for the answer is over: an error that says who had the request then."""
        holder = self._holder
        server = "" if holder is None else holder.server or holder.component
        had = "had begun to answer" if self.received else "had not answered a token of it"
        where = f"; {server}, where it was then, {had}" if server else ""
        self.fail(RequestError("deadline", f"the answer was not complete within {seconds:g} s{where}", server))

    def vanished(self, instance: Instance) -> None:
        """The lease of an instance is gone: nothing more will come if it takes part."""
        if instance in self.awaited:
            self._elsewhere("unavailable", f"{self._name(instance)} is gone", (instance.lease_hex,))

    def fail(self, error: RequestError) -> None:
        """End with this error unless it has ended before."""
        if not self.ended:
            self._error = error
            self._wake()

    async def route(self) -> Route:
        """What the router answered; RequestError when that is no route."""
        while self._route is None:
            await self._wait()
        return self._route

    async def take(self) -> list[Chunk]:
        """The next chunks, all that are there; RequestError when there will be none.

        None at all when a credit has come due through those that were taken at once.
        """
        while not self._chunks and not self._grant_asked:
            await self._wait()
        self._grant_asked = False
        chunks, self._chunks = self._chunks, []
        self.taken += len(chunks)
        return chunks

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _routed(self, answer: Route | Failure) -> None:
        if self.servers or self._route is not None:
            return
        self._quiet_ticks = 0
        if isinstance(answer, Failure):
            self._failed(answer, ())
        elif (answer.request_id, answer.attempt) != (self.request_id, self.number):
            raise ProtocolError(f"the router answers for attempt {answer.attempt} of {answer.request_id}")
        else:
            self._route = answer
            self._wake()

    def _streamed(self, message: Chunk | Heartbeat | Failure) -> None:
        if message.attempt != self.number or not self.servers:
            return
        self._quiet_ticks = 0
        if isinstance(message, Chunk):
            self._chunk(message)
        elif isinstance(message, Heartbeat):
            self._speaker = message.sender
            # Only who sends the chunks knows their number: the context server's heartbeat may be overtaken.
            if message.sender == self._generator and message.seq > self.received:
                self._lost(message.seq)
        else:
            self._failed(message, (self._generator,))

    def _chunk(self, chunk: Chunk) -> None:
        if chunk.seq != self.received:
            self._lost(chunk.seq)
        elif chunk.seq >= self._allowed:
            server = self._name(self.servers[-1])
            self.fail(RequestError("internal", f"{server} sends more than it was allowed to"))
        else:
            self._speaker = self._generator
            self.received += 1
            self._complete = chunk.finish_reason is not None
            self._chunks.append(chunk)

    def _lost(self, seq: int) -> None:
        server = self._name(self.servers[-1])
        self.fail(RequestError("lost", f"a part of the answer is lost: {server} is at {seq}, not {self.received}"))

    def _failed(self, failure: Failure, suspects: tuple[str, ...]) -> None:
        if failure.code in ELSEWHERE:
            self._elsewhere(failure.code, failure.message, suspects)
        else:
            self.fail(RequestError(failure.code, failure.message))

    def _elsewhere(self, code: str, sentence: str, suspects: tuple[str, ...]) -> None:
        plural = "" if self.received == 1 else "s"
        place = f", after {self.received} chunk{plural} of the answer" if self.received else ""
        self.fail(ElsewhereError(code, sentence + place, suspects))

    def _suspects(self) -> tuple[str, ...]:
        return () if self._asked is None else (self._asked.lease_hex,)

    def _name(self, instance: Instance | None) -> str:
        return "the server" if instance is None else instance.server or instance.key
