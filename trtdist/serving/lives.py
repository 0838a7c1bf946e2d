"""Which life a program of a run is in, by its events: one that died may have been started again under its name.

Standard library, Python 3.9.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from trtdist.events import Drained, EventReader, Ready, Record, Restarting, Rung, TaskStarted, WrittenOff
from trtdist.plan import Plan

__all__ = ["Lives"]

_TOLD = tuple(
    f'"{name}"'.encode() for name in ("task_started", "restarting", "written_off", "drained", "rung", "ready")
)
# What is known of the clock of another node may be wrong by that much. The supervisor tells of an end later than that
# after it (Settings.settle), so that no life is taken for the next one.
_APART_S = 0.1
# A look at the files of hundreds of servers takes a few ms, and much longer on a shared file system; but whoever has
# just died should not be taken for proven.
_READ_S = 0.2


class Lives:
    """Lives of servers (those of their first ranks) and of programs that are none, by the name of each.

    They are those of the last `read`; `follow` reads again and again.
    """

    def __init__(self, events: Path, plan: Plan) -> None:
        self._reader = EventReader(events, skip=lambda line: not any(word in line for word in _TOLD))
        self._members = {step.name: step.servers or (step.name,) for step in plan.steps}
        self._names = {f"{server.name}.0": server.name for server in plan.servers}
        self._started: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._answered: dict[str, float] = {}
        self._ready = False

    def of(self, name: str) -> float:
        """The life that a program is in, as the time at which it began; 0 while it is in none."""
        started = self._started.get(name, 0.0)
        return started if started > self._ended.get(name, 0.0) - _APART_S else 0.0

    def proven(self) -> dict[str, float]:
        """The life of each program if it has answered a canary in it, else 0; empty until all of them had."""
        names = [name for members in self._members.values() for name in members] if self._ready else []
        return {name: self.of(name) if self._answered.get(name, 0.0) > self.of(name) else 0.0 for name in names}

    def read(self) -> None:
        """Take in what the events tell by now."""
        self._take(self._reader.poll())

    async def follow(self) -> str:
        """Read for ever, without holding up what else is to be done."""
        while True:
            self._take(await asyncio.to_thread(self._reader.poll))
            await asyncio.sleep(_READ_S)

    def _take(self, records: Iterable[Record]) -> None:
        for record in records:
            event = record.event
            if isinstance(event, TaskStarted):
                _later(self._started, self._names.get(event.name, event.name), record)
            elif isinstance(event, (Restarting, WrittenOff, Drained)):
                for name in self._members.get(event.step, ()):
                    _later(self._ended, name, record)
            elif isinstance(event, Rung) and event.rung == "canary":
                _later(self._answered, event.name, record)
            elif isinstance(event, Ready):
                self._ready = True


def _later(times: dict[str, float], name: str, record: Record) -> None:
    times[name] = max(record.time, times.get(name, 0.0))
