"""Learns at once, and for next to nothing, that a process ended. Standard library, Python 3.9."""

from __future__ import annotations

import os
import select
import time
from typing import Generic, TypeVar

from trtdist.process import ProcessId

__all__ = ["Watch"]

Key = TypeVar("Key")


class Watch(Generic[Key]):
    """Watches processes under keys; each end is reported once.

    Uses pidfd_open(2) (Linux 5.3) in one epoll set, so that waiting costs nothing; where that is missing, and for
    what ended before it could be watched, each `gone` looks at /proc.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Key] = {}
        self._looked_at: list[tuple[Key, ProcessId]] = []
        self._last_look = time.time()

    def add(self, key: Key, process: ProcessId) -> None:
        """Watch a process; one that has ended already is reported by the next `gone`."""
        try:
            descriptor = os.pidfd_open(process.pid)
        except (OSError, AttributeError):
            self._looked_at.append((key, process))
            return
        if not process.alive():
            os.close(descriptor)
            self._looked_at.append((key, process))
            return
        self._watched[descriptor] = key
        self._epoll.register(descriptor, select.EPOLLIN)

    def gone(self) -> list[tuple[Key, float]]:
        """The keys of processes that ended since the last call, each with when (epoch seconds) it was seen alive."""
        now, last = time.time(), self._last_look
        ended = []
        for descriptor, _ in self._epoll.poll(0, max(1, len(self._watched))):
            self._epoll.unregister(descriptor)
            os.close(descriptor)
            ended.append((self._watched.pop(descriptor), last))
        for key, process in list(self._looked_at):
            if not process.alive():
                self._looked_at.remove((key, process))
                ended.append((key, last))
        self._last_look = now
        return ended

    def fileno(self) -> int:
        """Readable when a process ended (one that has a pidfd)."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Stop watching."""
        for descriptor in self._watched:
            os.close(descriptor)
        self._watched.clear()
        self._epoll.close()
