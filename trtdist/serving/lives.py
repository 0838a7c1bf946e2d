"""Which life a program of a run is in, by its events: one that died may have been started again under its name.

Standard library, Python 3.9.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from trtdist.events import (
    Drained,
    EventReader,
    Ready,
    Record,
    Restarting,
    Rung,
    StepStarted,
    SupervisorStarted,
    TaskStarted,
    WrittenOff,
)
from trtdist.plan import Plan

__all__ = ["Lives"]

_NAMES = ("supervisor_started", "step_started", "task_started", "restarting", "written_off", "drained", "rung", "ready")
_TOLD = tuple(f'"{name}"'.encode() for name in _NAMES)
# A look at the files of hundreds of servers takes a few ms, and much longer on a shared file system; but whoever has
# just died should not be taken for proven.
_READ_S = 0.2


class Lives:
    """Lives of servers (those of their first ranks) and of programs that are none, by the name of each.

    They are those of the last `read`; `follow` reads again and again. A life is known by the name that the supervisor
    gave it, or by the process of what a person has started.
    """

    def __init__(self, events: Path, plan: Plan) -> None:
        self._reader = EventReader(events, skip=lambda line: not any(word in line for word in _TOLD))
        self._step_of = {name: step.name for step in plan.steps for name in (step.name, *step.servers)}
        self._members = [name for step in plan.steps for name in step.servers or (step.name,)]
        self._names = {f"{server.name}.0": server.name for server in plan.servers}
        self._forget()

    def _forget(self) -> None:
        # By step, "" after the end of its last life.
        self._present: dict[str, str] = {}
        self._started: dict[str, str] = {}
        self._answered: dict[str, str] = {}
        self._ready = False

    def of(self, name: str) -> str:
        """The life that a program is in, "" while it is in none."""
        life = self._started.get(name, "")
        return life if self._present.get(self._step_of.get(name, ""), life) == life else ""

    def proven(self) -> dict[str, str]:
        """The life of each program if it has answered a canary in it, else ""; empty until all of them had."""
        known = self._members if self._ready else []
        return {name: self.of(name) if self._answered.get(name) == self.of(name) else "" for name in known}

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
            if isinstance(event, SupervisorStarted):
                # Slurm has queued the job again: nothing of what was proven is there.
                self._forget()
            elif isinstance(event, StepStarted):
                self._present[event.step] = event.life
            elif isinstance(event, TaskStarted):
                process = f"{event.host} {event.pid} {event.started}"
                self._started[self._names.get(event.name, event.name)] = record.life or process
            elif isinstance(event, (Restarting, WrittenOff, Drained)):
                self._present[event.step] = ""
            elif isinstance(event, Rung) and event.rung == "canary":
                self._answered[event.name] = event.detail
            elif isinstance(event, Ready):
                self._ready = True
