"""One HTTP connection: requests in their order, each answered before the next, and a client that cannot harm others.

What a client does not read stops the handler that writes it, and what it sends too early stops being read.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import cast

from trtdist.serving.front.errors import ApiError
from trtdist.serving.front.parser import HttpRefusal, Request, RequestParser

__all__ = ["Connection", "Connections", "Limits", "Reply"]

JSON, EVENTS = "application/json", "text/event-stream; charset=utf-8"
SWEEP_S = 1.0
# How long answers that are cut off have to tell the servers.
CUT_S = 1.0
_DEFECT = ApiError(500, "the front end failed: its log has more", "server_error", code="internal")
_REASONS = {status.value: status.phrase for status in http.HTTPStatus}


@dataclass(frozen=True)
class Limits:
    """What one process of the front end takes at once; bytes and seconds.

    `head_s` is how long a request's head may take, `body_s` its body, `idle_s` the pause between two requests,
    `stall_s` how long a client may read nothing, `linger_s` how long a refused client may go on sending.
    """

    body: int = 8 * 1024 * 1024
    buffered: int = 256 * 1024 * 1024
    connections: int = 16384
    early: int = 64 * 1024
    unread: int = 64 * 1024
    head_s: float = 10.0
    body_s: float = 60.0
    idle_s: float = 75.0
    stall_s: float = 60.0
    linger_s: float = 2.0


class Connections:
    """All connections of one process: what they hold together, and their deadlines, looked at once a second."""

    def __init__(
        self,
        handle: Callable[[Request, Reply], Awaitable[None]],
        limits: Limits | None = None,
        counted: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.handle = handle
        self._counted = counted
        self.limits = limits or Limits()
        self.buffered = 0
        self._all: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closing = self._retiring = False
        self._date = ("", -1)

    def __len__(self) -> int:
        return len(self._all)

    def accept(self) -> Connection:
        """A protocol for a new connection."""
        return Connection(self)

    def add(self, connection: Connection) -> None:
        """Take a connection on."""
        self._all.add(connection)
        self._counted(len(self._all))
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._look)

    def discard(self, connection: Connection) -> None:
        """A connection is gone."""
        self._all.discard(connection)
        self._counted(len(self._all))

    @property
    def full(self) -> bool:
        """Whether one more connection is too many."""
        return len(self._all) > self.limits.connections

    @property
    def closing(self) -> bool:
        """Whether each connection ends with the answer it is at."""
        return self._closing

    @property
    def retiring(self) -> bool:
        """Whether clients are asked to connect anew for their next request."""
        return self._retiring or self._closing

    def retire(self) -> None:
        """From now on have clients connect anew for each request, wherever that leads them."""
        self._retiring = True

    def date(self) -> str:
        """The header Date of now."""
        second = int(asyncio.get_running_loop().time())
        if self._date[1] != second:
            self._date = (formatdate(usegmt=True), second)
        return self._date[0]

    async def drain(self, seconds: float) -> None:
        """Take no more requests, let open answers end for so long, then cut them off."""
        self._closing = True
        for connection in list(self._all):
            connection.finish()
        for wait_s in (seconds, CUT_S):
            tasks = [one.task for one in self._all if one.task]
            if tasks:
                await asyncio.wait(tasks, timeout=wait_s)
            for connection in [one for one in self._all if one.busy]:
                connection.abort()
        if self._sweep is not None:
            self._sweep.cancel()

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in [one for one in self._all if one.deadline <= now]:
            connection.late()
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._look) if self._all else None


class Connection(asyncio.Protocol):
    """See above. `deadline` is when `late` must be called; `task` answers the request in hand."""

    def __init__(self, owner: Connections) -> None:
        self._owner = owner
        self._limits = owner.limits
        self._parser = RequestParser(owner.limits.body)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._counted = 0
        self._refused = False
        self._continued = False
        self._phase = ""
        self._writable: asyncio.Future[None] | None = None
        self.blocked = False
        self.lost = False
        self.deadline = self._loop.time() + owner.limits.head_s
        self.task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.task is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._limits.unread)
        channel = transport.get_extra_info("socket")
        if channel is not None and channel.family in (socket.AF_INET, socket.AF_INET6):
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._owner.add(self)
        if self._owner.full:
            self._refuse(ApiError(503, "there are too many connections: try again later", "server_error"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: what was being answered is not wanted any more."""
        self.lost = True
        self._owner.discard(self)
        self._owner.buffered -= self._counted
        self._counted = 0
        self.resume_writing()
        if self.task is not None:
            self.task.cancel()

    def eof_received(self) -> bool:
        """A client that sends no more is taken for one that went away."""
        return False

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._refused:
            return
        self._parser.feed(data)
        self._advance()

    def pause_writing(self) -> None:
        """The client reads slower than it is written to."""
        self.blocked = True
        self.deadline = self._loop.time() + self._limits.stall_s

    def resume_writing(self) -> None:
        """The client has read."""
        self.blocked = False
        self._set_deadline()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    async def drained(self) -> None:
        """Return when there is room to write, or the client is gone."""
        while self.blocked and not self.lost:
            self._writable = self._loop.create_future()
            try:
                await self._writable
            finally:
                self._writable = None

    def write(self, data: bytes) -> None:
        """Send; nothing once the client is gone."""
        if not self.lost and self._transport is not None:
            self._transport.write(data)

    def answered(self, keep_alive: bool) -> None:
        """The request in hand has its whole answer."""
        self.task = None
        if self.lost or self._refused:
            return
        if not keep_alive or self._owner.closing:
            self._linger()
        else:
            self._advance()

    def finish(self) -> None:
        """Close, once what is being answered is."""
        if self.task is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def late(self) -> None:
        """The deadline is over."""
        if self.blocked or self._refused or not self._parser.begun:
            self.abort()
        else:
            self._refuse(ApiError(408, "the request did not come in time"))

    def _advance(self) -> None:
        if self.task is None:
            try:
                request = self._parser.next()
            except HttpRefusal as refusal:
                self._refuse(ApiError(refusal.status, str(refusal)))
                return
            if request is not None:
                self._continued = False
                self.task = self._loop.create_task(self._answer(request))
            elif self._parser.wants_continue and not self._continued:
                self._continued = True
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._set_deadline()
        self._count(self._parser.waiting)
        self._hold_back(self.task is not None and self._parser.waiting > self._limits.early)

    async def _answer(self, request: Request) -> None:
        reply = Reply(self, request)
        try:
            await self._owner.handle(request, reply)
            await self.drained()
        finally:
            if not reply.begun:
                # A defect, whose traceback the event loop prints.
                reply.send(500, _DEFECT.body)
            self.answered(reply.complete and reply.keeps)

    def _count(self, waiting: int) -> None:
        self._owner.buffered += waiting - self._counted
        self._counted = waiting
        if self._owner.buffered > self._limits.buffered and self.task is None:
            self._refuse(ApiError(429, "too many large requests come at once: try again later", "rate_limit_error"))

    def _hold_back(self, too_early: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if too_early:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def _set_deadline(self) -> None:
        if self.task is not None:
            self.deadline = float("inf")
        elif self._parser.awaits_body:
            self._at_most(self._limits.body_s)
        elif self._parser.begun:
            self._at_most(self._limits.head_s)
        else:
            self.deadline = self._loop.time() + self._limits.idle_s
            self._phase = ""

    def _at_most(self, seconds: float) -> None:
        """From the first byte of a phase on: more bytes win no time."""
        phase = "body" if self._parser.awaits_body else "head"
        if phase != self._phase:
            self._phase = phase
            self.deadline = self._loop.time() + seconds

    def _refuse(self, error: ApiError) -> None:
        """Answer what is no request, and close."""
        first = _head(error.status, self._owner.date(), JSON, len(error.body), error.headers, keep=False)
        self.write(first + error.body)
        self._linger()

    def _linger(self) -> None:
        """Close so that the client can still read the answer: a reset would take it away."""
        self._refused = True
        self._count(0)
        self.deadline = self._loop.time() + self._limits.linger_s
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.resume_reading()
        if not transport.can_write_eof():
            transport.close()
            return
        with contextlib.suppress(OSError, RuntimeError):
            transport.write_eof()


class Reply:
    """How a handler answers: `send` at once, or `begin`, then `write` as often as it likes, then `end`."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._chunked = request.minor > 0
        self._keep = request.keep_alive and not connection._owner.retiring
        self._silent = request.method == "HEAD"
        self._first = b""
        self.begun = False
        self.complete = False
        self.status = 0

    @property
    def keeps(self) -> bool:
        """Whether the client was told that it may send another request."""
        return self._keep

    @property
    def lost(self) -> bool:
        """Whether the client has gone."""
        return self._connection.lost

    @property
    def blocked(self) -> bool:
        """Whether to wait with `drained` before more is written."""
        return self._connection.blocked

    @property
    def flowing(self) -> bool:
        """Whether it has begun, and its client keeps up."""
        return self.begun and not (self._connection.blocked or self._connection.lost)

    async def drained(self) -> None:
        """Return when the client has read enough, or is gone."""
        await self._connection.drained()

    def send(self, status: int, body: bytes, kind: str = JSON, headers: Mapping[str, str] | None = None) -> None:
        """The whole answer."""
        self.begun = self.complete = True
        self.status = status
        first = _head(status, self._connection._owner.date(), kind, len(body), headers or {}, self._keep)
        self._connection.write(first if self._silent else first + body)

    def begin(self, headers: Mapping[str, str]) -> None:
        """Begin a stream of events with status 200; what is written goes out with the first of it."""
        self.begun = True
        self.status = 200
        self._keep = self._keep and self._chunked
        self._first = _head(200, self._connection._owner.date(), EVENTS, None, headers, self._keep, self._chunked)

    def write(self, data: bytes) -> None:
        """A piece of the stream."""
        piece = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        if self._first:
            piece, self._first = self._first + piece, b""
        self._connection.write(piece)

    def end(self, data: bytes) -> None:
        """The last piece of the stream."""
        piece = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if self._chunked else data
        self._connection.write(self._first + piece)
        self._first = b""
        self.complete = self._keep


def _head(
    status: int,
    date: str,
    kind: str,
    length: int | None,
    headers: Mapping[str, str],
    keep: bool,
    chunked: bool = False,
) -> bytes:
    """The head of an answer."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", f"Date: {date}", f"Content-Type: {kind}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if chunked:
        lines += ["Transfer-Encoding: chunked", "Cache-Control: no-store"]
    lines.append("Connection: keep-alive" if keep else "Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
