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

_PACE, _TRY_AGAIN = 0.25, 1.0
# Slurm's programs may take their time, of which several are asked one after the other.
_PATIENCE = 90.0
_WORDS = {"asked": "is to take over", "ready": "has taken over"}


class Succeeding:
    """For the supervisor of `run`."""

    def __init__(self, run: RunDir, around: Surroundings, head: Head, journal: Journal) -> None:
        self._run = run
        self._around = around
        self._head = head
        self._journal = journal
        self._calling_off: asyncio.Task[None] | None = None

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

    async def take_over(self) -> str:
        """Have clients mean this run from now on, if it was made to follow another one, trying again for as long as it
        takes; returns why it must not any more, "" otherwise."""
        problem = ""
        while True:
            displaced = chain.displaced(self._run)
            if displaced:
                return f"not needed any more: {displaced}"
            try:
                before = chain.take_over(self._run)
            except OSError as error:
                if str(error) != problem:
                    problem = str(error)
                    self._journal.say(f"cannot take over yet: {problem}")
                await asyncio.sleep(_TRY_AGAIN)
                continue
            if before is not None:
                self._journal.say(f"has taken over from {before.run_id}")
            return ""

    def call_off(self) -> None:
        """See to it that the run that was asked for does not come up."""
        self._calling_off = asyncio.ensure_future(self._around.call_off())

    async def settled(self) -> None:
        """Return when nothing is under way about the run that was asked for, or takes far too long."""
        work = self._around.settled() if self._calling_off is None else self._calling_off
        done, _ = await asyncio.wait({asyncio.ensure_future(work)}, timeout=_PATIENCE)
        for task in done:
            task.result()
