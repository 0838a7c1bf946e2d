"""Which life a program of a run is in, by its events: one that died may have been started again under its name.

Standard library, Python 3.9.
"""

from __future__ import annotations

from pathlib import Path

from trtdist.events import Drained, EventReader, Restarting, TaskStarted, WrittenOff
from trtdist.plan import Plan

__all__ = ["Lives"]

_TOLD = tuple(f'"{name}"'.encode() for name in ("task_started", "restarting", "written_off", "drained"))
# What is known of the clock of another node may be wrong by that much. The supervisor tells of an end later than that
# after it (Settings.settle), so that no life is taken for the next one.
_APART_S = 0.1


class Lives:
    """Lives of servers (those of their first ranks) and of programs that are none, by the name of each."""

    def __init__(self, events: Path, plan: Plan) -> None:
        self._reader = EventReader(events, skip=lambda line: not any(word in line for word in _TOLD))
        self._members = {step.name: step.servers or (step.name,) for step in plan.steps}
        self._names = {f"{server.name}.0": server.name for server in plan.servers}
        self._started: dict[str, float] = {}
        self._ended: dict[str, float] = {}

    def of(self, name: str) -> float:
        """The life that a program is in, as the time at which it began; 0 while it is in none."""
        self._read()
        started = self._started.get(name, 0.0)
        return started if started > self._ended.get(name, 0.0) - _APART_S else 0.0

    def _read(self) -> None:
        for record in self._reader.poll():
            event = record.event
            if isinstance(event, TaskStarted):
                name = self._names.get(event.name, event.name)
                self._started[name] = max(record.time, self._started.get(name, 0.0))
            elif isinstance(event, (Restarting, WrittenOff, Drained)):
                for name in self._members.get(event.step, ()):
                    self._ended[name] = max(record.time, self._ended.get(name, 0.0))
