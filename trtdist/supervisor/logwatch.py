"""Sees which logs of a run grow, for a status call each, and how far what they grew by says that a rank is.

Standard library, Python 3.9.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from trtdist.rundir import RunDir
from trtdist.supervisor.laggard import how_far

__all__ = ["LogWatch"]


# Within that after the question a log grows by the stacks (seconds).
_STACKS_S = 10.0
# What is read of one log at a time at most: ranks that load say little.
_MOST_BYTES = 1 << 20


class LogWatch:
    """Watches the logs of some tasks; what they write of stacks when they are asked for them does not count."""

    def __init__(self, run: RunDir, tasks: Sequence[str]) -> None:
        self._paths = {task: str(run.log(task)) for task in tasks}
        self._stacks = run.stacks
        self._sizes: dict[str, int] = {}
        # What is there by now is of an earlier attempt of the run.
        self.grown()
        self._read = dict(self._sizes)

    def grown(self) -> dict[str, float]:
        """The tasks whose logs grew since the last look, with how many seconds ago the last growth was."""
        found, now, asked = {}, time.time(), self._last_asked()
        for task, path in self._paths.items():
            try:
                status = os.stat(path)
            except OSError:
                continue
            if status.st_size > self._sizes.get(task, 0) and not asked <= status.st_mtime <= asked + _STACKS_S:
                found[task] = max(0.0, now - status.st_mtime)
            self._sizes[task] = status.st_size
        return found

    def how_far(self) -> dict[str, int]:
        """How far the whole lines of each log say that its rank is, of those that were found to have grown since this
        was last asked."""
        later = [task for task, size in self._sizes.items() if size > self._read.get(task, 0)]
        return {task: how_far(self._lines(task)) for task in later}

    def _lines(self, task: str) -> bytes:
        begin, end = self._read.get(task, 0), self._sizes[task]
        try:
            with open(self._paths[task], "rb") as file:
                file.seek(begin)
                text = file.read(min(_MOST_BYTES, end - begin))
        except OSError:
            return b""
        whole = text.rfind(b"\n") + 1
        self._read[task] = begin + whole if len(text) < _MOST_BYTES else end
        return text[:whole]

    def _last_asked(self) -> float:
        """When stacks were last asked for, by the clock of the file system."""
        try:
            return os.stat(self._stacks / "ask").st_mtime
        except OSError:
            return float("inf")
