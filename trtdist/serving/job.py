"""What a server does about one attempt of a request: until it is answered, given up, or out of time."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from nats import errors

from trtdist.engines.base import EngineError, RefusedError
from trtdist.serving.outbox import Outbox
from trtdist.serving.phases import PhaseFailed, Station, generate, prefill
from trtdist.serving.protocol import GenerateCall, Notice
from trtdist.serving.waiting import end_task

__all__ = ["BEAT_S", "SILENCE_S", "Job"]

BEAT_S = 1.0
# A requester sends a Credit at least every 5 s.
SILENCE_S = 30.0

_CHARACTERS_PER_TOKEN = 4

_Phase = Callable[[Station, GenerateCall, Outbox, float], Coroutine[Any, Any, None]]
_PHASES: dict[str, _Phase] = {"context": prefill, "generation": generate, "monolithic": generate}


class Job:
    """Serves one GenerateCall. Nothing is sent to the requester after its end."""

    def __init__(self, station: Station, call: GenerateCall) -> None:
        loop = asyncio.get_running_loop()
        self._station = station
        self._call = call
        self._time = loop.time
        self._deadline = loop.time() + call.timeout
        self._outbox = Outbox(station.nats.publish, call, station.instance.lease_hex, loop.time())
        self._end: asyncio.Future[tuple[str, str]] = loop.create_future()

    @property
    def attempt(self) -> int:
        """Which attempt of its request it serves."""
        return self._call.attempt

    def allow(self, until: int) -> None:
        """The requester lives and takes chunks below number `until`."""
        self._outbox.allow(until, self._time())

    def end(self, code: str, message: str) -> None:
        """Give up, with one of the protocol's codes and a sentence for the requester."""
        if not self._end.done():
            self._end.set_result((code, message))

    async def serve(self) -> None:
        """Do the work; returns when the requester has its last message and the engine is done with it."""
        await self._notify("started", self._expected_tokens())
        phase = _PHASES[self._station.role]
        work = asyncio.ensure_future(phase(self._station, self._call, self._outbox, self._deadline))
        try:
            problem = await self._watch(work)
            if problem is not None:
                await self._outbox.fail(*problem)
        finally:
            await end_task(work)
        if problem is not None:
            # It may have been handed over at the last moment: before Python 3.12, asyncio can lose a cancellation.
            self._station.kept.free(self._call.request_id, self._call.attempt)
        if problem is None and self._station.role != "generation":
            await self._station.held.read(self._call, int(self._outbox.usage.get("prompt_tokens", 0)))
        await self._notify("done", int(self._outbox.usage.get("prompt_tokens", 0)))

    async def _watch(self, work: asyncio.Future[None]) -> tuple[str, str] | None:
        """Why the attempt fails, None when the work is done; a sign of life every second meanwhile."""
        ends: set[asyncio.Future[Any]] = {work, self._end}
        while True:
            pause = max(0.0, min(BEAT_S, self._deadline - self._time()))
            await asyncio.wait(ends, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if self._end.done():
                return self._end.result()
            if work.done():
                return _problem(work.exception())
            now = self._time()
            if now >= self._deadline:
                return "deadline", f"the request was not answered within {self._call.timeout:g} s"
            if now - self._outbox.heard >= SILENCE_S:
                return "stalled", f"nothing was heard of the requester for {SILENCE_S:g} s"
            with contextlib.suppress(errors.Error, OSError):
                await self._outbox.beat()

    def _expected_tokens(self) -> int:
        """How long the prompt is, estimated where only the engine knows."""
        return len(self._call.token_ids) or 1 + len(self._call.prompt) // _CHARACTERS_PER_TOKEN

    async def _notify(self, event: str, prompt_tokens: int) -> None:
        call, box = self._call, self._outbox
        if not call.notify:
            return
        who = self._station.instance.lease_hex
        notice = Notice(call.request_id, call.attempt, event, who, prompt_tokens, box.tokens, box.finish_reason)
        with contextlib.suppress(errors.Error, OSError):
            await self._station.nats.publish(call.notify, notice.encode())


def _problem(error: BaseException | None) -> tuple[str, str] | None:
    if error is None:
        return None
    if isinstance(error, PhaseFailed):
        return error.code, str(error)
    if isinstance(error, RefusedError):
        return "bad_request", str(error)
    if isinstance(error, EngineError):
        return "engine", str(error)
    if isinstance(error, errors.MaxPayloadError):
        return "too_large", "a piece of the answer is larger than NATS takes"
    if isinstance(error, errors.Error):
        return "lost", f"the server cannot send the answer: {str(error) or type(error).__name__}"
    traceback.print_exception(type(error), error, error.__traceback__)
    return "internal", f"the server failed at this request: {error!r}; see its log"
