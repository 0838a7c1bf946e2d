"""As much of HTTP/1.1 as etcd's gateway and our front end need: POST and GET, kept-alive connections, streams."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from trtdist.errors import InputError
from trtdist.services.address import host_port

__all__ = ["Connection", "HttpError", "Reply", "TooLargeError", "Url", "parse_url"]

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
READ_BYTES = 64 * 1024
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 5, 2, 3


class HttpError(Exception):
    """The other side broke HTTP, a limit, or the connection; the message says which."""


class TooLargeError(HttpError):
    """The answer is larger than the caller takes."""


@dataclass(frozen=True)
class Url:
    """Where a server is."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{host_port(self.host, self.port)}"


def parse_url(text: str) -> Url:
    """A base URL such as `http://127.0.0.1:2379`; InputError when it has a path, a user or no host and port."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        port = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or not port or "@" in parts.netloc:
        raise InputError(f"{text!r} is not the address of an etcd server: write it as http://HOST:PORT")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise InputError(f"{text!r} has a path: write the address of the etcd server as http://HOST:PORT")
    return Url(parts.hostname, port, parts.scheme == "https")


@dataclass(frozen=True)
class Reply:
    """An answer: its status and body."""

    status: int
    body: bytes


class Connection:
    """One connection, for one request at a time. Its errors are HttpError and OSError; after one it is closed."""

    def __init__(self, url: Url, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.url = url
        self._reader = reader
        self._writer = writer
        self._left = 0
        self._chunked = False
        self._complete = True
        self._closes = False

    @classmethod
    async def open(cls, url: Url, tls: ssl.SSLContext | None) -> Connection:
        """Connect; OSError when that fails. `tls` is used for https only, with the system's trust when None."""
        context = (tls or ssl.create_default_context()) if url.tls else None
        reader, writer = await asyncio.open_connection(url.host, url.port, ssl=context, limit=MAX_HEAD_BYTES)
        _notice_dead_peers(writer.get_extra_info("socket"))
        return cls(url, reader, writer)

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end and the other side keeps the connection."""
        return self._complete and not self._closes and not self._reader.at_eof() and not self._writer.is_closing()

    async def close(self) -> None:
        """Close at once; what was not answered is lost."""
        self._closes = True
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def exchange(
        self, method: str, path: str, body: bytes, limit: int, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request and read all of its answer, at most `limit` bytes of body."""
        status = await self.request(method, path, body, headers)
        parts: list[bytes] = []
        size = 0
        while True:
            piece = await self.read()
            if not piece:
                return Reply(status, b"".join(parts))
            size += len(piece)
            if size > limit:
                raise TooLargeError(f"its answer is larger than {limit} bytes")
            parts.append(piece)

    async def request(self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Send a request and read the head of the answer; gives its status."""
        host = str(self.url).partition("//")[2]
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._complete = False
        self._writer.write(head.encode("ascii") + body)
        await self._writer.drain()
        return await self._read_head()

    async def read(self) -> bytes:
        """The next piece of the body as soon as there is one, b"" after the last."""
        if self._left == 0 and self._chunked and not self._complete:
            await self._next_chunk()
        if self._left == 0:
            self._complete = True
            return b""
        piece = await self._reader.read(min(self._left, READ_BYTES))
        if not piece:
            raise HttpError("it closed the connection in the middle of an answer")
        self._left -= len(piece)
        if self._left == 0 and self._chunked and await self._line():
            raise HttpError("it sent a chunk that is longer than announced")
        return piece

    async def _next_chunk(self) -> None:
        size = (await self._line()).partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
            raise HttpError("it sent a chunk without a length")
        self._left = int(size, 16)
        if self._left == 0:
            while await self._line():
                continue

    async def _read_head(self) -> int:
        first = await self._line()
        match = re.fullmatch(rb"HTTP/1\.[01] (\d{3})( .*)?", first)
        if not match:
            raise HttpError("it does not speak HTTP")
        headers = await self._headers()
        length = headers.get("content-length", "")
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._closes = headers.get("connection", "").lower() == "close"
        if not self._chunked and not re.fullmatch(r"\d{1,15}", length):
            raise HttpError("its answer has no length")
        self._left = 0 if self._chunked else int(length)
        return int(match.group(1))

    async def _headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for _ in range(MAX_HEADERS):
            line = await self._line()
            if not line:
                return found
            name, _colon, value = line.decode("latin-1").partition(":")
            found[name.strip().lower()] = value.strip()
        raise HttpError(f"its answer has more than {MAX_HEADERS} header lines")

    async def _line(self) -> bytes:
        try:
            return (await self._reader.readuntil(b"\r\n"))[:-2]
        except asyncio.IncompleteReadError:
            raise HttpError("it closed the connection in the middle of an answer") from None
        except asyncio.LimitOverrunError:
            raise HttpError(f"it sent a line longer than {MAX_HEAD_BYTES} bytes") from None


def _notice_dead_peers(channel: socket.socket) -> None:
    """Let the kernel find out that a machine is gone, also while a watch has nothing to say."""
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
