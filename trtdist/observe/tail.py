"""Reads log files that grow, from either end, in bounded memory.

Following polls size and inode: on a shared file system no notification tells of another machine's writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["MAX_LINE", "Tail", "TimeIndex", "offset_since", "tail_offset"]

# A longer line is handed out in pieces, so that a file without newlines cannot fill the memory.
MAX_LINE = 1 << 20

# What was written within this time of an entry of the index has no entry of its own; the shim's pace.
_INDEX_SECONDS = 0.02

_CHUNK = 1 << 16


class Tail:
    """The lines of one file from an offset on, also when it appears late, is rotated, truncated or replaced.

    `read` gives what can be read now; an unfinished last line waits until it is finished or `finish` is called. Lines
    come without their end, each with the offset of its first byte.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self._offset = offset
        self._inode: int | None = None
        self._rest = b""

    def read(self) -> Iterator[tuple[int, str]]:
        """The whole lines that were added."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        with os.fdopen(descriptor, "rb") as file:
            self._place(os.fstat(descriptor))
            file.seek(self._offset)
            while chunk := file.read(_CHUNK):
                self._offset += len(chunk)
                yield from self._lines(chunk)

    def finish(self) -> Iterator[tuple[int, str]]:
        """The last line that has no end."""
        if self._rest:
            yield self._offset - len(self._rest), _text(self._rest)
        self._rest = b""

    def read_all(self) -> Iterator[tuple[int, str]]:
        """The lines that were added and what follows the last end of line."""
        yield from self.read()
        yield from self.finish()

    def _place(self, found: os.stat_result) -> None:
        """Starts again when the file is another one or was cut."""
        replaced = self._inode is not None and self._inode != found.st_ino
        if replaced or found.st_size < self._offset:
            self._offset, self._rest = 0, b""
        self._inode = found.st_ino

    def _lines(self, chunk: bytes) -> Iterator[tuple[int, str]]:
        at = self._offset - len(chunk) - len(self._rest)
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            yield at, _text(line)
            at += len(line) + 1
        if len(self._rest) > MAX_LINE:
            yield from self.finish()


class TimeIndex:
    """When the bytes of a log were written, from the index that the shim keeps beside it.

    A line of the index is "<byte offset> <seconds since the epoch>": what lies from that offset on was written then or
    later. Asked for growing offsets it reads the index once, and what is added to it.
    """

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._entries: Iterator[tuple[int, float]] = iter(())
        self._next: tuple[int, float] | None = None
        self._now = 0.0

    def time_at(self, offset: int) -> float:
        """The time of the byte at an offset, not smaller than that of the offset before; 0 when it is not known."""
        while True:
            self._next = self._next or self._following()
            if self._next is None or self._next[0] > offset:
                return self._now
            self._now = max(self._now, self._next[1])
            self._next = None

    def _following(self) -> tuple[int, float] | None:
        """The next entry, also of those that were added meanwhile."""
        found = next(self._entries, None)
        if found is None:
            self._entries = _entries(text for _, text in self._tail.read())
            found = next(self._entries, None)
        return found


def tail_offset(path: Path, count: int) -> int:
    """Where the last `count` lines of a file begin (bytes); looks at most `count` x MAX_LINE back."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            return _back(file.fileno(), size, count) if count else size
    except OSError:
        return 0


def _back(descriptor: int, size: int, count: int) -> int:
    end, newlines = size, 0
    while end > 0 and size - end < count * MAX_LINE:
        start = max(0, end - _CHUNK)
        chunk = os.pread(descriptor, end - start, start)
        place = len(chunk)
        while (place := chunk.rfind(b"\n", 0, place)) >= 0:
            newlines += start + place != size - 1
            if newlines == count:
                return start + place + 1
        end = start
    return end


def offset_since(log: Path, since: float) -> int:
    """Where in a log the output of a time (seconds since the epoch) and later begins.

    Without an index it is the start of the log, or its end when it was last written to before that time.
    """
    last = 0
    for offset, when in _index_entries(log.with_suffix(".idx")):
        if when + _INDEX_SECONDS > since:
            return offset
        last = offset
    try:
        status = log.stat()
    except OSError:
        return 0
    # A log that is newer than its index has lines that the index does not tell of.
    return status.st_size if status.st_mtime < since else last


def _index_entries(path: Path) -> Iterator[tuple[int, float]]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            yield from _entries(file)
    except OSError:
        return


def _entries(lines: Iterable[str]) -> Iterator[tuple[int, float]]:
    return filter(None, map(_index_entry, lines))


def _index_entry(line: str) -> tuple[int, float] | None:
    try:
        offset, when = line.split()
        return int(offset), float(when)
    except ValueError:
        return None


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")
