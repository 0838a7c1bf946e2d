"""A requester's way to the runs that take over, one after the other, from the one it asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from trtdist.errors import TrtdistError
from trtdist.serving.heir import Heir
from trtdist.serving.nats_connection import report_to_stderr
from trtdist.serving.waiting import end_task

if TYPE_CHECKING:
    from trtdist.serving.requester import Requester

__all__ = ["OPEN_S", "Following"]

# How long a request waits, at most, for the way to be open before it tries the run before.
OPEN_S = 10.0
AGAIN_S = 0.5

Opening = Callable[[Heir], "contextlib.AbstractAsyncContextManager[Requester]"]


class _Way:
    """The requester of one heir: `found` once it is open, and `passed` once that of a later one is."""

    def __init__(self) -> None:
        self.found: asyncio.Future[Requester] = asyncio.get_running_loop().create_future()
        self.passed = asyncio.Event()
        self.unreachable = False

    @property
    def opened(self) -> Requester | None:
        """The requester as far as it is open."""
        return self.found.result() if self.found.done() and not self.found.cancelled() else None


class Following:
    """Opens a requester of each heir as it becomes known, and holds the newest until `close`.

    One before it goes when its requests have ended. `run` is the id of the run that all this begins with.
    """

    def __init__(self, run: str, opening: Opening) -> None:
        self._opening = opening
        self._seen = {run}
        self._ways: list[_Way] = []
        self._holding: set[asyncio.Task[None]] = set()
        self._known = asyncio.Event()

    @property
    def opened(self) -> Requester | None:
        """The requester of the newest heir that is open; None without one."""
        return next((way.opened for way in reversed(self._ways) if way.opened is not None), None)

    def beyond(self, requester: Requester) -> bool:
        """Whether there is a run that comes after the one of this requester."""
        return bool(self._ways) and self._ways[-1].opened is not requester

    def look(self, heir: Heir | None) -> None:
        """Learn who takes over from a run that is followed; each counts once."""
        if heir is None or heir.run in self._seen:
            return
        self._seen.add(heir.run)
        way = _Way()
        self._ways.append(way)
        task = asyncio.ensure_future(self._hold(heir, way))
        self._holding.add(task)
        task.add_done_callback(self._holding.discard)
        self._known.set()

    async def told(self) -> None:
        """Return once there is an heir."""
        await self._known.wait()

    async def heir(self, requester: Requester, seconds: float) -> Requester | None:
        """The requester of a run after the one of this requester, the newest if that can be reached in time; None
        without one, and where none can be reached from here."""
        if not self.beyond(requester):
            return None
        newest = self._ways[-1]
        if not newest.unreachable or newest.found.done():
            await asyncio.wait({newest.found}, timeout=max(0.0, min(OPEN_S, seconds)))
        found = self.opened
        return None if found is requester else found

    async def close(self) -> None:
        """Close what is open; its requests are cancelled."""
        while self._holding:
            await end_task(self._holding.pop())
        for way in self._ways:
            way.found.cancel()

    async def _hold(self, heir: Heir, way: _Way) -> None:
        while not (way.found.done() or way.passed.is_set()):
            try:
                async with self._opening(heir) as requester:
                    way.found.set_result(requester)
                    self._pass_by(way)
                    await way.passed.wait()
                    await requester.idle()
            except TrtdistError as error:
                way.unreachable = True
                report_to_stderr(f"{heir.run} has taken over, and cannot be reached yet: {error}")
                await asyncio.sleep(AGAIN_S)

    def _pass_by(self, way: _Way) -> None:
        """Nothing new goes to those before, nor to this one if a later one was open first."""
        if way.passed.is_set():
            return
        place = self._ways.index(way)
        for earlier in self._ways[:place]:
            earlier.passed.set()
        del self._ways[:place]
