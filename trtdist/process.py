"""A process named so that it can never be mistaken for another that was given the same pid later."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessId", "start_ticks"]


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is gone or a zombie.

    Fields 3 (state) and 22 (starttime) of /proc/PID/stat, proc(5).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True)
class ProcessId:
    """A pid with its start time; both must agree for it to count as alive."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The identity of a running process, None when there is none."""
        started = start_ticks(pid)
        return None if started is None else cls(pid, started)

    def alive(self) -> bool:
        """Whether exactly this process still runs."""
        return start_ticks(self.pid) == self.started

    def signal(self, number: int) -> bool:
        """Send a signal if exactly this process still runs; says whether it was sent."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True
