"""As much of an HTTP server as uvicorn and FastAPI do for TensorRT-LLM, and of a client as aiohttp does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

Answer = "tuple[int, dict, object]"
Handler = Callable[[str, str, dict], Awaitable[tuple]]


class HttpError(Exception):
    """Answered with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, dict] | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split(" ")
    return method, path, json.loads(body) if body else {}


def _head(status: int, headers: dict) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


async def _answer(writer: asyncio.StreamWriter, status: int, headers: dict, body: object) -> None:
    if isinstance(body, AsyncIterator):
        writer.write(_head(status, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
        async for piece in body:
            data = f"data: {piece if isinstance(piece, str) else json.dumps(piece)}\n\n".encode()
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        return
    data = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    writer.write(_head(status, {"content-type": "application/json", "content-length": len(data), **headers}) + data)
    await writer.drain()


async def serve(bound: socket.socket, handler: Handler) -> asyncio.Server:
    """Listen on a socket that is bound, and answer with what the handler gives: status, headers, body."""

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                method, path, body = await _request(reader)
                try:
                    answer = await handler(method, path, body)
                except HttpError as e:
                    answer = e.status, {}, {"object": "error", "message": str(e), "code": e.status}
                await _answer(writer, *answer)
        writer.close()

    server = await asyncio.start_server(attend, sock=bound)
    host, port = bound.getsockname()[:2]
    print("INFO:     Application startup complete.", flush=True)
    print(f"INFO:     Uvicorn running on http://{host}:{port} (Press CTRL+C to quit)", flush=True)
    return server


async def until_told() -> None:
    """Return at TERM or INT, as uvicorn ends in order."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
    print(f"INFO:     Finished server process [{os.getpid()}]", flush=True)


async def ask(address: str, method: str, path: str, body: dict | None = None):
    """The status of an answer, and its JSON or, of a stream, an async iterator over its events."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = json.dumps(body).encode() if body is not None else b""
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ")[1])
    if "chunked" in head:
        return status, _events(reader, writer)
    length = int(head.partition("content-length:")[2].split("\r\n")[0])
    text = await reader.readexactly(length)
    writer.close()
    return status, json.loads(text) if text.startswith((b"{", b"[")) else text.decode()


async def _events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
    while size := int(await reader.readline(), 16):
        yield (await reader.readexactly(size)).decode().removeprefix("data: ").strip()
        await reader.readexactly(2)
    writer.close()
