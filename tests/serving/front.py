"""The HTTP front end for tests: served in this process for a deployment, and spoken to over raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.serving.deployment import Deployment
from trtdist.serving.front.chat import plain
from trtdist.serving.front.connection import Connections, Limits
from trtdist.serving.front.metrics import Metrics
from trtdist.serving.front.program import listen
from trtdist.serving.front.service import Service, Settings
from trtdist.serving.requester import Requester

__all__ = ["MODEL", "Front", "Raw", "fronting", "raw_request"]

MODEL = "tiny"


@dataclass
class Front:
    """A front end that listens in this process."""

    port: int
    connections: Connections
    metrics: Metrics
    requester: Requester

    @property
    def url(self) -> str:
        """Its base URL, as OpenAI's client wants it."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def raw(self, data: bytes = b"") -> Raw:
        """A connection on which this was sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        return Raw(reader, writer)

    async def post(self, path: str, body: object, **headers: str) -> Answered:
        """The whole answer to a POST; a body that is no bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        raw = await self.raw(raw_request("POST", path, data, headers))
        try:
            return await raw.answer()
        finally:
            raw.close()

    async def get(self, path: str, **headers: str) -> Answered:
        """The whole answer to a GET."""
        raw = await self.raw(raw_request("GET", path, b"", headers))
        try:
            return await raw.answer()
        finally:
            raw.close()


def raw_request(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A request as bytes; `_` in names of headers stands for `-`."""
    given = {"host": "x", "content-type": "application/json", "content-length": str(len(body))}
    given |= {name.replace("_", "-"): value for name, value in (headers or {}).items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@dataclass
class Answered:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in the body, which has the shape that OpenAI's clients read."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["type"], error
        return dict(error)


@dataclass
class Raw:
    """A connection that reads answers one by one."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pieces: list[bytes] = field(default_factory=list)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:-2])

    async def answer(self) -> Answered:
        """The next answer."""
        status, headers = await self.head()
        if "content-length" in headers:
            return Answered(status, headers, await self.reader.readexactly(int(headers["content-length"])))
        body = b""
        while headers.get("transfer-encoding") == "chunked":
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            body += (await self.reader.readexactly(size + 2))[:-2]
            if size == 0:
                break
        return Answered(status, headers, body)

    async def closed(self) -> bytes:
        """What still comes until the other side closes."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""

    def close(self) -> None:
        """Close at once."""
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def fronting(
    deployed: Deployment, limits: Limits | None = None, keys: frozenset[bytes] = frozenset(), **settings: Any
) -> AsyncIterator[Front]:
    """A front end for a deployment."""
    roles: Sequence[str] = tuple(dict.fromkeys(server.role for server in deployed.plan.servers))
    made = Settings(settings.pop("model", MODEL), 0, tuple(roles), settings.pop("template", plain), keys, **settings)
    (listener,) = listen("127.0.0.1", 0, 1)
    async with Requester.open(deployed.config, "front") as requester:
        metrics = Metrics()
        connections = Connections(Service(requester, made, metrics).handle, limits)
        server = await asyncio.get_running_loop().create_server(connections.accept, sock=listener)
        try:
            yield Front(listener.getsockname()[1], connections, metrics, requester)
        finally:
            server.close()
            await connections.drain(1.0)
