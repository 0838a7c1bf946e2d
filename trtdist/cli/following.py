"""Stays with a run that comes up, is up or goes down: hears its events and passes on what the user wants."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trtdist.cli.aftermath import AFTER_GRACE, give_up
from trtdist.cli.bringup import Supervised
from trtdist.cli.progress import Display, say
from trtdist.cli.stopsignals import StopSignals
from trtdist.events import EventReader, Record, RunState
from trtdist.rundir import RunDir
from trtdist.supervisor.facts import Death, Outcome, Settings

__all__ = ["Following", "Waiting"]

_BUSY, _QUIET = 0.05, 0.5
_ACKNOWLEDGED = (
    "stopping; Ctrl-C again shortens it",
    "what has not stopped within {:g} s is killed",
    "what is left is killed",
)


class Following:
    """Follows one run from its start (`began`, seconds since the epoch) to its end.

    A supervisor that does not end in time after the user asked for it is killed. `death` is how the supervisor ended,
    None while it runs.
    """

    def __init__(self, run: RunDir, supervised: Supervised, signals: StopSignals, settings: Settings) -> None:
        self.run = run
        self.began = time.time()
        self._events = EventReader(run.events)
        self._supervised = supervised
        self._signals = signals
        self._grace = (settings.grace, settings.hurried_grace, 0.0)
        self._asked = 0
        self._give_up_at: float | None = None
        self._state = ""
        self.death: Death | None = None

    def until_ready(self, display: Display) -> bool:
        """Whether the run came up; False when it ended, or when the user wants it to."""
        while not self._over(display):
            if self._state == "READY" and not self._asked:
                return True
            self._step(_BUSY)
        return False

    def until_end(self, display: Display) -> None:
        """Until the supervisor has ended."""
        while not self._over(display):
            self._step(_QUIET if self._state == "READY" else _BUSY)

    def _over(self, display: Display) -> bool:
        self.death = self._supervised.ended()
        self._hear(self._events.poll(), display)
        return self.death is not None

    def _step(self, seconds: float) -> None:
        number = self._signals.wait(seconds)
        if number is not None:
            self._ask(number)
        if self._give_up_at is not None and time.monotonic() > self._give_up_at:
            give_up(self.run, Outcome("INTERRUPTED", 130, "interrupted; the supervisor hung and was killed"))
            self._supervised.kill()

    def _ask(self, number: int) -> None:
        place = min(self._asked, len(self._grace) - 1)
        grace = self._grace[place]
        say(_ACKNOWLEDGED[place].format(grace))
        self._asked += 1
        give_up_at = time.monotonic() + grace + AFTER_GRACE
        self._give_up_at = give_up_at if self._give_up_at is None else min(self._give_up_at, give_up_at)
        self._supervised.interrupt(number)

    def _hear(self, records: Sequence[Record], display: Display) -> None:
        for record in records:
            if isinstance(record.event, RunState):
                self._state = record.event.state
        display.tell(records)


class Waiting(Following):
    """Follows a run that is on its own: a signal ends the waiting and leaves the run alone."""

    given_up = False

    def until_ready(self, display: Display) -> bool:
        """Whether the run came up; False when it ended, or the user does not want to wait."""
        while not self._over(display) and not self.given_up:
            if self._state == "READY":
                return True
            self.given_up = self._signals.wait(_BUSY) is not None
        return False
