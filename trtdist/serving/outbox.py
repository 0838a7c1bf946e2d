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
OUTPUTS_IN_A_ROW = 32
# Far below what NATS takes, and so large that a message costs little beside its text.
MERGED_CHARACTERS = 16 * 1024


class Outbox:
    """What goes to one requester for one attempt.

    `sent` counts chunks, `tokens` what was in them. `heard` is when the requester last gave a sign of life.
    `finish_reason` says how the stream ended, "" while it is open; `usage` is the engine's.

    The first output goes out at once. Those that the engine gives before the event loop had another turn were there
    already: they go out together, as one chunk, when it has. So nothing is held back to wait for more, and a message
    costs less per token the more there is to say.
    """

    def __init__(self, publish: Publish, call: GenerateCall, sender: str, now: float) -> None:
        # Asked for once: asyncio makes a system call to say which it is.
        self._loop = asyncio.get_running_loop()
        self._publish = publish
        self._inbox = call.inbox
        self._attempt = call.attempt
        self._sender = sender
        self._until = call.window
        self._credit = asyncio.Event()
        self._waiting: list[EngineOutput] = []
        self._characters = 0
        self._same_turn = False
        self._later: asyncio.Task[None] | None = None
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
        self._waiting.append(output)
        self._characters += len(output.text)
        full = len(self._waiting) >= OUTPUTS_IN_A_ROW or self._characters >= MERGED_CHARACTERS
        if self._same_turn and not full and output.finish_reason is None:
            return
        await self._send()
        if full:
            await asyncio.sleep(0)
        elif not self._same_turn:
            self._same_turn = True
            self._loop.call_soon(self._next_turn)

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
        last = self._merged() if self._waiting and self.sent < self._until else None
        self.finish_reason = code
        self._credit.set()
        failure = Failure(code, message[:MAX_SENTENCE], self._attempt, self.sent)
        with contextlib.suppress(errors.Error, OSError):
            if last is not None:
                await self._publish(self._inbox, last.encode())
            await self._publish(self._inbox, failure.encode())

    def _next_turn(self) -> None:
        self._same_turn = False
        if self._waiting and (self._later is None or self._later.done()):
            self._later = asyncio.ensure_future(self._send_later())

    async def _send_later(self) -> None:
        # Who gives the next output meets the same error.
        with contextlib.suppress(errors.Error, OSError):
            await self._send()

    async def _send(self) -> None:
        """Send what waits as one chunk, once there is credit; whoever comes first sends it for all."""
        while self.sent >= self._until and not self.closed:
            self._credit.clear()
            await self._credit.wait()
        if self.closed or not self._waiting:
            return
        message = self._merged()
        await self._publish(self._inbox, message.encode())
        self.finish_reason = self.finish_reason or message.finish_reason or ""

    def _merged(self) -> Chunk:
        """What waits, as the next chunk."""
        outputs, self._waiting, self._characters = self._waiting, [], 0
        ids, text, last = outputs[0].token_ids, outputs[0].text, outputs[-1]
        if len(outputs) > 1:
            ids = tuple(number for output in outputs for number in output.token_ids)
            text = "".join(output.text for output in outputs)
        self.tokens += len(ids)
        if last.finish_reason is not None:
            self.usage = {"completion_tokens": self.tokens, **last.usage}
        self.sent += 1
        self._quiet = False
        return Chunk(self._attempt, self.sent - 1, ids, text, last.finish_reason, self.usage)
