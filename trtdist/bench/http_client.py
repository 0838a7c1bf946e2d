"""A small HTTP/1.1 client for streams: kept connections, and one wake-up per answer instead of one per piece."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import cast

__all__ = ["HttpClient", "HttpFailure", "Taker"]

MAX_HEAD = 64 * 1024
MAX_CHUNK = 64 * 1024 * 1024

# Gets a piece of the body and when it arrived (`time.perf_counter`).
Taker = Callable[[bytes, float], None]


class HttpFailure(Exception):
    """An exchange failed; the message is one sentence. `fresh` is False when a kept connection had died before it."""

    def __init__(self, message: str, fresh: bool = True) -> None:
        super().__init__(message)
        self.fresh = fresh


class HttpClient:
    """Exchanges with one server over as many connections as there are exchanges at the same time."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._where = (host, port)
        self._tls = tls
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def exchange(self, request: bytes, taker: Taker, timeout: float) -> int:
        """Send a request and give the body to `taker` as it comes; returns the status. HttpFailure.

        A kept connection that the server had closed meanwhile is replaced once.
        """
        while self._idle:
            try:
                return await self._on(self._idle.pop(), request, taker, timeout)
            except HttpFailure as failure:
                if failure.fresh:
                    raise
        return await self._on(await self._connect(timeout), request, taker, timeout)

    def close(self) -> None:
        """Close all connections."""
        for connection in tuple(self._all):
            connection.close()

    async def _on(self, connection: _Connection, request: bytes, taker: Taker, timeout: float) -> int:
        done = False
        try:
            status = await connection.exchange(request, taker, timeout)
            done = True
        finally:
            if done and connection.reusable:
                self._idle.append(connection)
            else:
                connection.close()
        return status

    async def _connect(self, timeout: float) -> _Connection:
        host, port = self._where
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(lambda: _Connection(self._all), host, port, ssl=self._tls)
        try:
            _, connection = await asyncio.wait_for(opening, timeout)
        except (OSError, asyncio.TimeoutError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "no answer in time"
            raise HttpFailure(f"{host}:{port} cannot be reached: {reason}") from None
        return connection


class _Connection(asyncio.Protocol):
    """One exchange after the other."""

    def __init__(self, everybody: set[_Connection]) -> None:
        self._everybody = everybody
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._status = 0
        self._served = 0
        self._body: Callable[[float], bool] | None = None
        self._taker: Taker | None = None
        self._left = 0
        self._end: asyncio.Future[int] | None = None
        self._keep = True

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow."""
        return self._keep and not self._buffer and self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes, taker: Taker, timeout: float) -> int:
        """As HttpClient says; nothing arrived before it on this connection."""
        if not self.reusable:
            raise HttpFailure("the connection was closed", fresh=not self._served)
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        self._end, self._taker, self._status, self._body = loop.create_future(), taker, 0, None
        timer = loop.call_later(timeout, self._fail, f"no complete answer within {timeout:g} s")
        self._transport.write(request)
        try:
            return await self._end
        finally:
            timer.cancel()
            self._taker, self._end = None, None
            self._served += 1

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._everybody.add(self)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._buffer = self._buffer + data if self._buffer else data
        if self._end is None or self._end.done():
            return
        try:
            if (self._body is not None or self._head()) and self._body is not None and self._body(now):
                self._end.set_result(self._status)
        except ValueError as error:
            self._fail(f"the answer is no HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._everybody.discard(self)
        self._transport = None
        if self._end is None or self._end.done():
            return
        if self._body == self._until_closed and error is None:
            self._end.set_result(self._status)
        elif self._body is None and not self._buffer:
            failure = HttpFailure("the connection was closed without an answer", fresh=not self._served)
            self._end.set_exception(failure)
        else:
            self._fail("the connection was closed in the middle of the answer")

    def _fail(self, sentence: str) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_exception(HttpFailure(sentence))
        self.close()

    def _head(self) -> bool:
        """Read the head once it is complete, and choose how the body is read."""
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(head) > MAX_HEAD:
                raise ValueError(f"the head has more than {MAX_HEAD} bytes")
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, *_ = [*first.split(" ", 2), ""]
        if not version.startswith("HTTP/1.") or not status.isdigit():
            raise ValueError(f"it begins with {first[:40]!r}")
        if status.startswith("1"):
            self._buffer = rest
            return self._head()
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._status, self._buffer = int(status), rest
        self._keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        self._body = self._framing(headers)
        return True

    def _framing(self, headers: dict[str, str]) -> Callable[[float], bool]:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunked
        if "content-length" in headers:
            self._left = int(headers["content-length"])
            return self._counted
        self._keep = False
        return self._until_closed

    def _give(self, data: bytes, now: float) -> None:
        if self._taker is not None and data:
            self._taker(data, now)

    def _counted(self, now: float) -> bool:
        data, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(data)
        self._give(data, now)
        return self._left == 0

    def _until_closed(self, now: float) -> bool:
        data, self._buffer = self._buffer, b""
        self._give(data, now)
        return False

    def _chunked(self, now: float) -> bool:
        """Give all whole chunks at once: what one read brought has one time."""
        buffer, place, parts = self._buffer, 0, []
        ended = False
        while (line_end := buffer.find(b"\r\n", place)) >= 0:
            size = int(buffer[place:line_end].partition(b";")[0], 16)
            if not 0 <= size <= MAX_CHUNK:
                raise ValueError(f"a chunk of {size} bytes")
            begin = line_end + 2
            if size == 0:
                # Trailers are not expected; an empty line ends the body.
                ended = buffer.startswith(b"\r\n", begin)
                place = begin + 2 if ended else place
                break
            if len(buffer) < begin + size + 2:
                break
            if not buffer.startswith(b"\r\n", begin + size):
                raise ValueError("a chunk is longer than it says")
            parts.append(buffer[begin : begin + size])
            place = begin + size + 2
        self._buffer = buffer[place:]
        self._give(parts[0] if len(parts) == 1 else b"".join(parts), now)
        return ended
