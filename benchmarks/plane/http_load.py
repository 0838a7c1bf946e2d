"""`python -m benchmarks.plane.http_load URL MODEL`: a client of its own process, so that several can be had.

Streams chats one after the other on each of its connections, and prints what arrived within a window of time, as JSON:
`pieces`, `requests`, `ttft` of the requests begun in it, and `delays` from engine to client of each piece whose text
is when the engine gave it, both in ms. An answer that is not whole ends it with a sentence and exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from trtdist.bench import workload
from trtdist.bench.http_client import HttpClient, HttpFailure
from trtdist.bench.lengths import Lengths
from trtdist.bench.sse import MAX_EVENT, OpenAiAnswer
from trtdist.bench.workload import Request
from trtdist.serving.sse import EventReader

__all__: list[str] = []

_STAMP = re.compile(rb'"content": ?" ([0-9]{9,})"').search
OK = 200


class _Load:
    """What the connections see together; `begin` and `end` are times of `time.perf_counter`."""

    def __init__(self, options: argparse.Namespace) -> None:
        url = urlsplit(options.url)
        self._options = options
        self._client = HttpClient(url.hostname or "", url.port or 80)
        self._head = f"POST {url.path}/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\n"
        self._head += "Content-Type: application/json\r\n"
        self._fixed = {
            "model": options.model,
            "max_tokens": options.tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            **options.extra,
        }
        self.pieces = self.requests = 0
        self.ttft: list[float] = []
        self.delays: list[float] = []

    async def run(self) -> None:
        """Put the load on until the window is over."""
        prompts = workload.closed(Lengths("fixed", self._options.prompt), Lengths("fixed", self._options.tokens), 0)
        await asyncio.gather(*(self._connection(prompts, number) for number in range(self._options.streams)))
        self._client.close()

    async def _connection(self, prompts: Iterator[Request], number: int) -> None:
        options = self._options
        # One after the other, as users come, not all in the same turn.
        await asyncio.sleep(number * options.spread / options.streams)
        while time.perf_counter() < options.end:
            await self._one(next(prompts))

    async def _one(self, request: Request) -> None:
        answer, events = OpenAiAnswer(), EventReader(MAX_EVENT)
        begin, end = self._options.begin, self._options.end

        def take(data: bytes, now: float) -> None:
            for event in events.feed(data):
                answer.event(event, now)
                stamp = _STAMP(event) if begin <= now < end else None
                if stamp is not None:
                    self.delays.append(1000 * (now - int(stamp[1]) / 1e9))

        body = json.dumps({"messages": [{"role": "user", "content": request.prompt}], **self._fixed}).encode()
        message = self._head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
        sent = time.perf_counter()
        status = await self._client.exchange(message, take, 60.0)
        if status != OK or answer.error or not answer.done or answer.usage is None:
            raise HttpFailure(f"status {status}: {answer.error or 'the answer is not whole'}")
        if answer.usage[1] != request.output_tokens or len(answer.pieces) != request.output_tokens:
            raise HttpFailure(
                f"{len(answer.pieces)} pieces and {answer.usage[1]} tokens are not {request.output_tokens}"
            )
        inside = [piece for piece in answer.pieces if begin <= piece < end]
        self.pieces += len(inside)
        if begin <= sent < end:
            self.requests += 1
            self.ttft.append(1000 * (answer.pieces[0] - sent))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("model")
    for name, kind, default in (("streams", int, 64), ("prompt", int, 104), ("tokens", int, 64)):
        parser.add_argument(f"--{name}", type=kind, default=default)
    for name in ("begin", "end", "spread"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--extra", type=json.loads, default={}, help="more fields of the bodies, as JSON")
    return parser.parse_args()


def main() -> None:
    """Put the load on and print."""
    load = _Load(_options())
    try:
        asyncio.run(load.run())
    except HttpFailure as failure:
        sys.exit(str(failure))
    print(json.dumps({name: vars(load)[name] for name in ("pieces", "requests", "ttft", "delays")}))


if __name__ == "__main__":
    main()
