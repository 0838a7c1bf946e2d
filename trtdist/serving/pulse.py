"""Whether an engine still gives something to those who wait for it: one that hangs keeps its connections and its lease.

Only what is asked of the engine counts: neither a server that nobody asks nor a reader that is slow makes it silent. A
request that is cancelled takes nothing back, since an engine that hangs lets all of them run out of time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from trtdist.engines.base import EngineOutput

__all__ = ["Pulse", "Watched"]

LONGEST_TICK_S = 1.0


class Pulse:
    """What an engine does for all its requests together: `waiting` of them wait for an output now."""

    def __init__(self) -> None:
        self.waiting = 0
        self._silent = 0.0

    def beat(self) -> None:
        """The engine has given something."""
        self._silent = 0.0

    async def silence(self, seconds: float) -> None:
        """Return when requests have waited that long and none has got anything.

        Time is counted in ticks: a process that was stopped does not take its own absence for that of the engine.
        """
        tick = min(LONGEST_TICK_S, seconds / 4)
        self._silent = 0.0
        while self._silent < seconds:
            await asyncio.sleep(tick)
            self._silent += tick if self.waiting else 0.0


class Watched:
    """The outputs of an engine for one request, which a pulse sees as they come."""

    def __init__(self, outputs: AsyncIterator[EngineOutput], pulse: Pulse) -> None:
        self._outputs = outputs
        self._pulse = pulse

    def __aiter__(self) -> Watched:
        return self

    async def __anext__(self) -> EngineOutput:
        self._pulse.waiting += 1
        try:
            output = await self._outputs.__anext__()
        finally:
            self._pulse.waiting -= 1
        self._pulse.beat()
        return output
