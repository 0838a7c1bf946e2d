"""What the supervisor tells: events for programs, lines in its log for people. Standard library, Python 3.9."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from trtdist.events import Event, EventWriter

__all__ = ["Journal", "from_supervisor"]


class Journal:
    """Writes the supervisor's events; that an event is lost to a full disk is remembered as a sentence in `broken`."""

    def __init__(self, path: Path) -> None:
        self.broken = ""
        self._path = path
        self._writer: EventWriter | None = None
        try:
            self._writer = EventWriter(path)
        except OSError as error:
            self._break(error)

    def write(self, event: Event) -> bool:
        """Append an event, as far as the disk allows; whether it is told."""
        if self._writer is None:
            return False
        try:
            self._writer.write(event)
        except OSError as error:
            self._break(error)
            return False
        return True

    def say(self, line: str) -> None:
        """Print a line with the time of day; a log that takes no more is no reason to stop."""
        try:
            print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
        except OSError:
            return

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _break(self, error: OSError) -> None:
        if self.broken:
            return
        folder = self._path.parent.parent
        remedy = "free some space on that disk or set TRTDIST_RUNS to another one"
        self.broken = f"cannot write to the run directory {folder}: {error.strerror}; {remedy}"
        self.say(self.broken)


def from_supervisor(line: bytes) -> bool:
    """Whether a line of the events is one that a journal wrote."""
    return b'"writer": "supervisor"' in line
