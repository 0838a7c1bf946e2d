"""What a supervisor does about the runs before and after its own: tells of the one that is to take over, sends clients
to it, and itself takes over. Standard library, Python 3.9."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from trtdist import chain
from trtdist.events import Successor
from trtdist.rundir import RunDir
from trtdist.supervisor import messages
from trtdist.supervisor.handover_messages import SuccessorAsked, SuccessorLost, SuccessorReady
from trtdist.supervisor.head import Head
from trtdist.supervisor.journal import Journal
from trtdist.supervisor.surroundings import Surroundings

__all__ = ["Succeeding"]

_PACE = 0.25
_WORDS = {"asked": "is to take over", "ready": "has taken over"}


class Succeeding:
    """For the supervisor of `run`."""

    def __init__(self, run: RunDir, around: Surroundings, head: Head, journal: Journal) -> None:
        self._run = run
        self._around = around
        self._head = head
        self._journal = journal

    async def follow(self) -> AsyncIterator[messages.Input]:
        """Have another run come up that takes over; what becomes of it."""
        run = job = ""
        async for event in self._around.succeed():
            if isinstance(event, (SuccessorAsked, SuccessorReady)):
                run, job = event.run, event.job
                state = "asked" if isinstance(event, SuccessorAsked) else "ready"
                self._journal.write(Successor(run, job, state))
                self._journal.say(f"{run} (job {job}) {_WORDS[state]}")
            elif isinstance(event, SuccessorLost):
                self._journal.write(Successor(run, job, "lost", event.reason))
                self._journal.say(event.reason)
            yield event

    async def tell_clients(self, heir: str, seconds: float) -> None:
        """Send connected clients to the run that has taken over, trying again for so long."""
        until = time.monotonic() + seconds
        while not await self._head.hand_over(RunDir(self._run.path.with_name(heir))):
            if time.monotonic() > until:
                self._journal.say(f"clients that are connected were not told of {heir}")
                return
            await asyncio.sleep(_PACE)

    def take_over(self) -> None:
        """Have clients mean this run from now on, if it was made to follow another one."""
        try:
            before = chain.take_over(self._run)
        except OSError as error:
            self._journal.say(f"cannot take over: {error}")
            return
        if before is not None:
            self._journal.say(f"has taken over from {before.run_id}")
