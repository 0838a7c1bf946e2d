"""The sending end of a stream: numbered chunks within the requester's credit, heartbeats, and a last word."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from nats import errors

from trtdist.engines.base import EngineOutput
from trtdist.serving.protocol import MAX_SENTENCE, Chunk, Failure, GenerateCall, Heartbeat

__all__ = ["Outbox", "Publish"]

Publish = Callable[[str, bytes], Awaitable[None]]

# An engine that never waits, and a NATS client that only fills a buffer, would keep the event loop for themselves.
CHUNKS_IN_A_ROW = 32


class Outbox:
    """What goes to one requester for one attempt.

    `sent` counts chunks, `tokens` what was in them. `heard` is when the requester last gave a sign of life.
    `finish_reason` says how the stream ended, "" while it is open; `usage` is the engine's.
    """

    def __init__(self, publish: Publish, call: GenerateCall, sender: str, now: float) -> None:
        self._publish = publish
        self._inbox = call.inbox
        self._attempt = call.attempt
        self._sender = sender
        self._until = call.window
        self._credit = asyncio.Event()
        self._quiet = True
        self.finish_reason = ""
        self.usage: dict[str, Any] = {}
        self.sent = 0
        self.tokens = 0
        self.heard = now

    @property
    def closed(self) -> bool:
        """Whether the stream has ended: a last chunk or a failure was sent."""
        return bool(self.finish_reason)

    def allow(self, until: int, now: float) -> None:
        """Chunks below number `until` may be sent; the requester lives."""
        self._until = max(self._until, until)
        self.heard = now
        self._credit.set()

    async def chunk(self, output: EngineOutput) -> None:
        """Send what the engine gave, as soon as there is credit for it; nothing once the stream has ended."""
        while self.sent >= self._until:
            self._credit.clear()
            await self._credit.wait()
        if self.closed:
            return
        reason = output.finish_reason
        if reason is not None:
            self.usage = {"completion_tokens": self.tokens + len(output.token_ids), **output.usage}
        message = Chunk(self._attempt, self.sent, output.token_ids, output.text, reason, self.usage)
        self.sent += 1
        self.tokens += len(output.token_ids)
        self._quiet = False
        await self._publish(self._inbox, message.encode())
        self.finish_reason = self.finish_reason or reason or ""
        if self.sent % CHUNKS_IN_A_ROW == 0:
            await asyncio.sleep(0)

    async def beat(self) -> None:
        """Say that the attempt is being worked on, unless a chunk has said so since the last time."""
        if self._quiet and not self.closed:
            await self._publish(self._inbox, Heartbeat(self._attempt, self.sent, self._sender).encode())
        self._quiet = True

    def hand_over(self, tokens: int) -> None:
        """End it here without a word: another server goes on, after this many tokens."""
        self.finish_reason = "handed_over"
        self.tokens = tokens

    async def fail(self, code: str, message: str) -> None:
        """End the stream with a failure, unless it has ended; whether it arrives is not known."""
        if self.closed:
            return
        self.finish_reason = code
        failure = Failure(code, message[:MAX_SENTENCE], self._attempt, self.sent)
        with contextlib.suppress(errors.Error, OSError):
            await self._publish(self._inbox, failure.encode())
