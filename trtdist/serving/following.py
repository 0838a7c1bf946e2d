"""A requester's way to the run that takes over from the one it asks."""

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

__all__ = ["Following"]

# How long a request waits for the way to be open before it tries the run before.
OPEN_S = 10.0
AGAIN_S = 0.5

Opening = Callable[[Heir], "contextlib.AbstractAsyncContextManager[Requester]"]


class Following:
    """Opens a requester of the heir once there is one, and holds it until `close`."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._found: asyncio.Future[Requester] | None = None
        self._holding: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        self._unreachable = False

    @property
    def known(self) -> bool:
        """Whether there is an heir."""
        return self._holding is not None

    @property
    def opened(self) -> Requester | None:
        """The requester of the heir as far as it is open."""
        found = self._found
        return found.result() if found is not None and found.done() and not found.cancelled() else None

    def look(self, heir: Heir | None) -> None:
        """Learn who takes over; the first that is told counts."""
        if heir is None or self._holding is not None:
            return
        self._found = asyncio.get_running_loop().create_future()
        self._holding = asyncio.ensure_future(self._hold(heir, self._found))
        self._known.set()

    async def told(self) -> None:
        """Return once there is an heir."""
        await self._known.wait()

    async def heir(self) -> Requester | None:
        """The requester of the heir; None without one, and for one that cannot be reached from here."""
        if self._found is None or (self._unreachable and not self._found.done()):
            return None
        await asyncio.wait({self._found}, timeout=OPEN_S)
        return self.opened

    async def close(self) -> None:
        """Close it; its requests are cancelled."""
        if self._holding is not None:
            await end_task(self._holding)
        if self._found is not None:
            self._found.cancel()

    async def _hold(self, heir: Heir, found: asyncio.Future[Requester]) -> None:
        while not found.done():
            try:
                async with self._opening(heir) as requester:
                    found.set_result(requester)
                    await asyncio.Event().wait()
            except TrtdistError as error:
                self._unreachable = True
                report_to_stderr(f"{heir.run} has taken over, and cannot be reached yet: {error}")
                await asyncio.sleep(AGAIN_S)
