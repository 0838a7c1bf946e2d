"""KV caches that wait on a context server for the generation server to fetch them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from trtdist.engines.base import EngineError
from trtdist.serving.background import Background

__all__ = ["KEEP_S", "KeptCaches"]

# Nobody tells when a cache was fetched. After so many seconds it was, or will not be; an answer may take far longer.
KEEP_S = 120.0


@dataclass(frozen=True)
class _Kept:
    attempt: int
    context_request_id: int
    expiry: asyncio.TimerHandle


class KeptCaches:
    """What was handed over and may still have to be freed: on a cancellation, or after a time.

    The engine frees a cache that was fetched; to free it again does no harm.
    """

    def __init__(self, release: Callable[[int], Awaitable[None]], background: Background) -> None:
        self._release = release
        self._background = background
        self._kept: dict[str, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, request_id: str, attempt: int, context_request_id: int, deadline: float) -> None:
        """Free the cache at `deadline` (the event loop's time), or KEEP_S from now, unless something does before."""
        self.free(request_id, attempt)
        if request_id in self._kept:  # of a newer attempt
            self._background.start(self.release(context_request_id))
            return
        loop = asyncio.get_running_loop()
        expiry = loop.call_at(min(deadline, loop.time() + KEEP_S), self.free, request_id, attempt)
        self._kept[request_id] = _Kept(attempt, context_request_id, expiry)

    def free(self, request_id: str, attempt: int) -> None:
        """Free the cache of this attempt or of an older one."""
        kept = self._kept.get(request_id)
        if kept is None or kept.attempt > attempt:
            return
        del self._kept[request_id]
        kept.expiry.cancel()
        self._background.start(self.release(kept.context_request_id))

    async def release(self, context_request_id: int) -> None:
        """Free a cache in the engine, which has none any more when it is dead."""
        with contextlib.suppress(EngineError):
            await self._release(context_request_id)
