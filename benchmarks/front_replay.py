"""Instructions that the HTTP front end executes for each chunk and request, which other load does not change.

    python benchmarks/front_replay.py [--streams N] [--tokens N] [--each N] [--plain]

Chats go through the front end's own code, from the bytes of HTTP to the bytes of NATS and back. Sockets, the NATS
server and the servers behind it are played in the same process. `--each` is how many tokens of each stream arrive with
one read from NATS: 1 where the front end keeps up, more where it does not. The instructions are those of
`valgrind --tool=cachegrind`, of one length of answers less those of another; `--plain` only runs it, for a profiler.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.plane.instructions import instructions
from benchmarks.plane.services import CHAT_TEMPLATE
from trtdist.engines.reference.text import FIRST_WORD, word
from trtdist.serving.direct import DirectClient
from trtdist.serving.discovery import Change, Instance, Snapshot
from trtdist.serving.following import Following
from trtdist.serving.front.chat import chat_template
from trtdist.serving.front.connection import Connections
from trtdist.serving.front.metrics import Metrics
from trtdist.serving.front.service import Service, Settings
from trtdist.serving.inbox import Inbox
from trtdist.serving.protocol import Accepted, Chunk, Route, decode_call, decode_route_call
from trtdist.serving.requester import Requester
from trtdist.serving.slug import MONOLITHIC, ROUTER

PROMPT = "What a user may ask takes about as many words as this. " * 8
LENGTHS = (8, 72)


class _Nats(DirectClient):
    """Plays the run: routes and accepts what it is asked, and gives tokens when it is told to."""

    def __init__(self, router: Instance, server: Instance) -> None:
        super().__init__()
        self._router, self._server = router, server
        self._sid = b""
        self._answers: list[bytes] = []
        self._inboxes: list[str] = []

    async def subscribe(self, *arguments: Any, **named: Any) -> Any:
        return SimpleNamespace(_id=1)

    @property
    def max_payload(self) -> int:
        return 1 << 20

    async def publish(self, subject: str, payload: bytes = b"", reply: str = "", headers: Any = None) -> None:
        if subject == self._router.subject:
            call = decode_route_call(payload)
            route = Route(call.request_id, call.attempt, None, self._server, self._router.control_subject)
            self._answers.append(_message(reply, route.encode()))
        elif subject == self._server.subject:
            self._inboxes.append(decode_call(payload).inbox)
            self._answers.append(_message(reply, Accepted().encode()))

    async def settle(self, streams: int) -> None:
        """Answer until all streams have been asked for."""
        while len(self._inboxes) < streams or self._answers:
            answers, self._answers = b"".join(self._answers), []
            await self._ps.parse(answers)
            await asyncio.sleep(0)

    async def give(self, tokens: int, each: int) -> None:
        """Give each stream its tokens, so many of each with one read."""
        inboxes, self._inboxes = self._inboxes, []
        for first in range(0, tokens, each):
            chunks = [_chunk(number, tokens) for number in range(first, min(first + each, tokens))]
            data = [_message(inbox, chunk) for chunk in chunks for inbox in inboxes]
            await self._ps.parse(b"".join(data))
            await asyncio.sleep(0)


def _message(subject: str, data: bytes) -> bytes:
    return b"MSG %s 1 %d\r\n%s\r\n" % (subject.encode(), len(data), data)


def _chunk(number: int, tokens: int) -> bytes:
    token = FIRST_WORD + number % 64
    if number < tokens - 1:
        return Chunk(0, number, (token,), word(token)).encode()
    return Chunk(0, number, (token,), word(token), "length", {"prompt_tokens": 9, "completion_tokens": tokens}).encode()


class _Watcher:
    """Shows one router and one server, for ever."""

    def __init__(self, *instances: Instance) -> None:
        self.snapshot = Snapshot(instances)

    def calling(self, changed: Callable[[Change], None]) -> AbstractContextManager[None]:
        return nullcontext()


class _Socket(asyncio.Transport):
    """Counts what is written to a client."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.last = b""

    def write(self, data: Any) -> None:
        self.writes += 1
        self.last = data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """No limits."""

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing more is sent."""

    resume_reading = pause_reading


def _request(tokens: int) -> bytes:
    asked = {"model": "tiny", "max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps({"messages": [{"role": "user", "content": PROMPT}], **asked, "temperature": 0}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def replay(folder: Path, streams: int, tokens: int, each: int, rounds: int) -> int:
    """Have all streams answered so many times; returns how often something was written to a client."""
    router = Instance.of("replay", ROUTER, "generate", 1, "router")
    server = Instance.of("replay", MONOLITHIC, "generate", 2, "srv.0", "reference")
    nats = _Nats(router, server)
    watcher: Any = _Watcher(router, server)
    etcd: Any = None
    nobody: Any = None
    requester = Requester("replay", Inbox(nats), watcher, etcd, Following("replay", nobody))
    settings = Settings("tiny", 0, (), chat_template(str(folder), "reference"))
    connections = Connections(Service(requester, settings, Metrics(1)).handle)
    sockets = [_Socket() for _ in range(streams)]
    async with requester._working():
        protocols = [connections.accept() for _ in sockets]
        for protocol, one in zip(protocols, sockets):
            protocol.connection_made(one)
        for _ in range(rounds):
            for protocol in protocols:
                protocol.data_received(_request(tokens))
            await nats.settle(streams)
            await nats.give(tokens, each)
            while any(protocol.busy for protocol in protocols):
                await asyncio.sleep(0)
            assert all(b"[DONE]" in one.last for one in sockets)
    return sum(one.writes for one in sockets)


def _plain(folder: Path, options: argparse.Namespace) -> None:
    writes = asyncio.run(replay(folder, options.streams, options.tokens, options.each, options.rounds))
    chunks = options.rounds * options.streams * options.tokens
    print(f"{writes / chunks:.2f} writes to clients per chunk")


def _instructions(options: argparse.Namespace, *runs: tuple[int, int]) -> Iterator[int]:
    """Of programs that are run at the same time, each with its tokens and rounds."""
    same = [__file__, "--plain", "--streams", str(options.streams), "--each", str(options.each)]
    return instructions(*([*same, "--tokens", str(tokens), "--rounds", str(rounds)] for tokens, rounds in runs))


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("streams", 64), ("tokens", 64), ("each", 1), ("rounds", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trtdist-replay.") as name:
        config = {"chat_template": CHAT_TEMPLATE, "bos_token": "<|begin_of_text|>"}
        (Path(name) / "tokenizer_config.json").write_text(json.dumps(config))
        _plain(Path(name), options)
    if not options.plain:
        short, long = LENGTHS
        once, often, longer = _instructions(options, (short, 1), (short, 3), (long, 3))
        chunk = (longer - often) / (3 * options.streams * (long - short))
        request = (often - once) / (2 * options.streams) - short * chunk
        print(f"{chunk:,.0f} instructions per chunk, {request:,.0f} per request")


if __name__ == "__main__":
    main()
