"""`python -m benchmarks.plane.bare_http PORT`: the least that an HTTP server can do, as a limit.

An `asyncio.Protocol` that answers each POST with as many server-sent events as `max_tokens` says, each written by
itself, from bytes that were made before: no routing, no engine, no tokens, no checks.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import cast

from benchmarks.plane.pretend import TEXT
from trtdist.serving.program import run_until_stopped

__all__: list[str] = []

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
IN_A_ROW = 32


def _event(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    body = {"id": "chatcmpl-" + 24 * "0", "object": "chat.completion.chunk", "created": 1795000000, "model": "tiny"}
    return _chunk(b"data: " + json.dumps({**body, "choices": [choice]}).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


PIECE = _event({"content": TEXT})


class _Server(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if found and length is not None and len(body) >= int(length[1]):
            self.buffer = b""
            self.task = asyncio.ensure_future(self.answer(json.loads(body)["max_tokens"]))

    async def answer(self, tokens: int) -> None:
        self.transport.write(HEAD)
        for number in range(tokens):
            self.transport.write(PIECE)
            if number % IN_A_ROW == IN_A_ROW - 1:
                await asyncio.sleep(0)
        usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": tokens}}).encode()
        self.transport.write(_event({}, "length") + _chunk(b"data: " + usage + b"\n\n"))
        self.transport.write(_chunk(b"data: [DONE]\n\n") + _chunk(b""))


async def _serve(port: int, stop: asyncio.Event) -> None:
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", port)
    async with server:
        await stop.wait()


if __name__ == "__main__":
    run_until_stopped(lambda stop: _serve(int(sys.argv[1]), stop))
