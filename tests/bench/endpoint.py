"""A small OpenAI-compatible server on a real socket; the model's name says what goes wrong.

well        nothing
stop        the answer ends after half of the tokens, with finish reason `stop`
short       half of the tokens, and the finish reason says that it was all of them
gap         one piece more than the usage counts
no_usage    the usage is left out
cut         the connection is closed in the middle
no_done     the stream ends without [DONE]
busy        status 429 with an error of OpenAI's shape
stray       an error event in the middle of a stream
silent      nothing comes
slow        the first token comes after 50 ms, the others every 5 ms
bytewise    as well, each byte in a packet of its own
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Scripted", "scripted"]


@dataclass
class Scripted:
    """The server; `asked` has the body of each request, `connections` counts them."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    most_open: int = 0
    handlers: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.handlers.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.handlers.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lengths = [int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length")]
        body = json.loads(await reader.readexactly(lengths[0])) if lengths else {}
        if head.startswith("GET /v1/models "):
            return reply(writer, "200 OK", {"object": "list", "data": [{"id": "well"}]})
        self.asked.append(body)
        if body["model"] == "busy":
            return reply(writer, "429 Too Many Requests", {"error": {"message": "come back\nlater", "code": 429}})
        if body["model"] == "silent":
            return bool(await reader.read())
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await stream(writer, body)
        finally:
            self.open -= 1


def reply(writer: asyncio.StreamWriter, status: str, body: object) -> bool:
    data = json.dumps(body).encode()
    writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(data), data))
    return True


async def stream(writer: asyncio.StreamWriter, body: dict[str, Any]) -> bool:
    kind, asked = body["model"], body["max_tokens"]
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    tokens = asked // 2 if kind in ("stop", "short", "cut", "stray") else asked
    for number in range(tokens):
        if kind == "slow":
            await asyncio.sleep(0.005 if number else 0.05)
        await send(writer, kind, event({"content": f"{number} "}))
    if kind == "cut":
        return False
    if kind == "stray":
        await send(writer, kind, b'data: {"error": {"message": "the engine failed"}}\n\n')
    await send(writer, kind, event({}, "stop" if kind == "stop" else "length"))
    counts = {"prompt_tokens": 7, "completion_tokens": tokens - (kind == "gap")}
    if kind != "no_usage":
        await send(writer, kind, b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n")
    if kind != "no_done":
        await send(writer, kind, b"data: [DONE]\n\n")
    await send(writer, kind, b"")
    return True


def event(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"id": "x", "choices": [choice], "usage": None}).encode() + b"\n\n"


async def send(writer: asyncio.StreamWriter, kind: str, data: bytes) -> None:
    framed = b"%x\r\n%s\r\n" % (len(data), data)
    for part in [framed[place : place + 1] for place in range(len(framed))] if kind == "bytewise" else [framed]:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    """The server while in `async with`."""
    made = Scripted()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        # Whoever asked has closed its connections by now, so they end.
        while made.handlers:
            await asyncio.wait(set(made.handlers), timeout=10)
