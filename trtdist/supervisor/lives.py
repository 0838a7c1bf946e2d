"""Tells the lives of a task apart: what an earlier one says late must not be taken for the end of a later one.

Standard library, Python 3.9.
"""

from __future__ import annotations

import time

from trtdist.events import Record, TaskExited, TaskRefused, TaskStarted

__all__ = ["Lives"]


class Lives:
    """Which process each task is at present, and since when the present life of each step lasts."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._again: set[str] = set()
        # By step and task; one that was started again has none until its tasks tell of themselves.
        self._pids: dict[str, dict[str, int]] = {}

    def begin(self, step: str) -> None:
        """A step is started, perhaps once more."""
        if step in self._begun:
            self._again.add(step)
        self._begun[step] = time.time()
        self._pids[step] = {}

    def concerns(self, record: Record) -> bool:
        """Whether an event is about a present life; learns of those that begin."""
        event = record.event
        if not isinstance(event, (TaskStarted, TaskExited, TaskRefused)):
            return True
        if event.step in self._again and record.time < self._begun[event.step]:
            return False
        if isinstance(event, TaskExited):
            return self._pids.get(event.step, {}).get(event.name) == event.pid
        if isinstance(event, TaskStarted):
            self._pids.setdefault(event.step, {})[event.name] = event.pid
        return True

    def has(self, task: TaskStarted) -> bool:
        """Whether this is the present life of a task."""
        return self._pids.get(task.step, {}).get(task.name) == task.pid
