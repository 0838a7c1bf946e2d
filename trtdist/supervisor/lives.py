"""Tells the lives of a task apart: what is said late of an earlier one must not be taken for news of a later one.

Each life of a step has a name, which its processes are told and write into their events; a clock that is set back would
not tell one from the next.

Standard library, Python 3.9.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from trtdist.events import EngineSilent, Record, Rung, TaskExited, TaskRefused, TaskStarted, TaskUnwell
from trtdist.plan import Step

__all__ = ["Lives"]


class Lives:
    """Which process each task is at present, and which life each step is in."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._step_of = {name: step.name for step in steps for name in (step.name, *step.servers)}
        self._present: dict[str, str] = {}
        # By step and task; one that was started again has none until its tasks tell of themselves.
        self._pids: dict[str, dict[str, int]] = {}
        self._launchers: dict[str, int] = {}
        # Under which keys of etcd the present lives, by step, and those before them were registered.
        self._keys: dict[str, set[str]] = {}
        self._past: set[str] = set()

    def begin(self, step: str) -> str:
        """A step is started, perhaps once more; returns the name of its life, which no other supervisor gives."""
        self._present[step] = f"{step} {secrets.token_hex(4)}"
        self._pids[step] = {}
        self._past |= self._keys.pop(step, set())
        return self._present[step]

    def launched(self, step: str, pid: int) -> None:
        """The first process of the present life of a step."""
        self._launchers[step] = pid

    def orphaned(self, end: TaskExited) -> bool:
        """Whether the first process of its step had started a task of a present life, and ended before it."""
        return end.orphan_of != 0 and end.orphan_of == self._launchers.get(end.step)

    def concerns(self, record: Record) -> bool:
        """Whether an event is about a present life; learns of those that begin."""
        event = record.event
        if isinstance(event, Rung):
            return self._climbs(event, record.life)
        if isinstance(event, EngineSilent):
            return event.instance not in self._past
        if isinstance(event, TaskUnwell):
            return not self._is_over(event.step, event.life)
        if not isinstance(event, (TaskStarted, TaskExited, TaskRefused)):
            return True
        if self._is_over(event.step, record.life):
            return False
        if isinstance(event, TaskExited):
            return self._pids.get(event.step, {}).get(event.name) == event.pid
        if isinstance(event, TaskStarted):
            self._pids.setdefault(event.step, {})[event.name] = event.pid
        return True

    def _is_over(self, step: str, life: str) -> bool:
        """Whether a life is an earlier one of this step."""
        return life != "" and life.rpartition(" ")[0] == step and life != self._present.get(step)

    def _climbs(self, rung: Rung, life: str) -> bool:
        """Whether a present life reached a rung; one whose key is still in etcd may be proven after its end."""
        step = self._step_of.get(rung.name, "")
        # Who proves servers over HTTP tells of which life.
        over = self._is_over(step, life) or self._is_over(step, rung.detail)
        if rung.rung in ("registered", "canary") and rung.detail:
            (self._past if over else self._keys.setdefault(step, set())).add(rung.detail)
        return not over and rung.detail not in self._past

    def has(self, task: TaskStarted) -> bool:
        """Whether this is the present life of a task."""
        return self._pids.get(task.step, {}).get(task.name) == task.pid
