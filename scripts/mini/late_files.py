#!/usr/bin/env python3
"""Keeps copies of a folder alike, each change some seconds late: `late_files.py SECONDS FOLDER FOLDER...`.

Each FOLDER is what one machine sees, as on a shared file system whose clients trust what they have cached. What is
written, appended, renamed or removed in one of them is seen at once there, and in all others that many seconds later,
in the order in which it was done, with owner, mode and times. Of two machines that change one file, the last wins.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_POLL_S = 0.2


@dataclass(frozen=True)
class Look:
    """A file, folder or link as it was seen."""

    kind: int
    inode: int
    mode: int
    owner: tuple[int, int]
    size: int
    changed: int

    @classmethod
    def at(cls, path: str) -> Look:
        """OSError when it is gone."""
        found = os.lstat(path)
        kind, folder = stat.S_IFMT(found.st_mode), stat.S_ISDIR(found.st_mode)
        # Of a folder, size and time tell of what is in it, which is looked at itself.
        size, changed = (0, 0) if folder else (found.st_size, found.st_mtime_ns)
        return cls(kind, found.st_ino, stat.S_IMODE(found.st_mode), (found.st_uid, found.st_gid), size, changed)


@dataclass(frozen=True)
class Change:
    """What was done to `name` in folder number `source`; `look` is None for a removal.

    `data` replaces the content from `start` on, in a new file when `fresh`.
    """

    source: int
    name: str
    look: Look | None
    start: int = 0
    data: bytes = b""
    fresh: bool = True


@dataclass
class Folder:
    """One of the copies, and what it was last known to hold."""

    number: int
    root: str
    known: dict[str, Look] = field(default_factory=dict)

    def changes(self) -> list[Change]:
        """What was done here since the last time, by others than us; folders before what is in them."""
        seen = dict(self._walk(""))
        gone = [name for name in self.known if name not in seen]
        found = [self._change(name, look) for name, look in seen.items() if self.known.get(name) != look]
        self.known = seen
        written = sorted((each for each in found if each is not None), key=_when)
        return [*written, *(Change(self.number, name, None) for name in sorted(gone, reverse=True))]

    def take(self, change: Change) -> None:
        """Do here what was done elsewhere."""
        path = f"{self.root}/{change.name}"
        with contextlib.suppress(FileNotFoundError):
            self._do(path, change)
        try:
            look = Look.at(path)
        except OSError:
            self.known.pop(change.name, None)
            return
        # What somebody here wrote meanwhile is found by the next look.
        size = change.look.size if change.look is not None else look.size
        self.known[change.name] = Look(look.kind, look.inode, look.mode, look.owner, size, look.changed)

    def _walk(self, below: str) -> Iterator[tuple[str, Look]]:
        try:
            names = sorted(os.listdir(f"{self.root}/{below}"))
        except OSError:
            return
        for name in (os.path.join(below, name) for name in names):
            try:
                look = Look.at(f"{self.root}/{name}")
            except OSError:
                continue
            if look.kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                yield name, look
            if look.kind == stat.S_IFDIR:
                yield from self._walk(name)

    def _change(self, name: str, look: Look) -> Change | None:
        path, before = f"{self.root}/{name}", self.known.get(name)
        same = before is not None and before.inode == look.inode
        start = before.size if same and before is not None and before.size <= look.size else 0
        try:
            if look.kind == stat.S_IFLNK:
                return Change(self.number, name, look, 0, os.fsencode(os.readlink(path)))
            if look.kind == stat.S_IFDIR:
                return Change(self.number, name, look)
            # Appended to when it grew; what was rewritten without growing is taken whole.
            start = 0 if before is not None and before.size == look.size else start
            with open(path, "rb") as file:
                file.seek(start)
                return Change(self.number, name, look, start, file.read(look.size - start), not same)
        except OSError:
            return None

    def _do(self, path: str, change: Change) -> None:
        look = change.look
        there = os.path.lexists(path)
        if there and (look is None or look.kind != Look.at(path).kind):
            _remove(path)
        if look is None:
            return
        if look.kind == stat.S_IFDIR:
            os.makedirs(path, exist_ok=True)
            _dress(path, look)
        elif change.fresh or not there:
            part = f"{os.path.dirname(path)}/.{os.path.basename(path)}.late"
            _remove(part)
            _write(part, look, change)
            os.rename(part, path)
        else:
            _write(path, look, change)


def _write(path: str, look: Look, change: Change) -> None:
    if look.kind == stat.S_IFLNK:
        os.symlink(change.data, path)
        os.lchown(path, *look.owner)
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, change.data, change.start)
        if change.start == 0:
            os.ftruncate(descriptor, len(change.data))
    finally:
        os.close(descriptor)
    _dress(path, look)
    os.utime(path, ns=(look.changed, look.changed))


def _dress(path: str, look: Look) -> None:
    os.chown(path, *look.owner)
    os.chmod(path, look.mode)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _when(change: Change) -> tuple[int, str]:
    """Folders, which have no time of their own, first."""
    assert change.look is not None
    return change.look.changed, change.name


class Late:
    """All copies, and the changes that are under way between them."""

    def __init__(self, seconds: float, roots: Sequence[str]) -> None:
        self._seconds = seconds
        self._folders = [Folder(number, root) for number, root in enumerate(roots)]
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, Change]] = []
        self._newest: dict[str, int] = {}

    def turn(self, now: float) -> None:
        """Take down what was done, and pass on what is old enough; `now` in monotonic seconds."""
        for folder in self._folders:
            for change in folder.changes():
                order = next(self._order)
                self._newest[change.name] = change.source
                heapq.heappush(self._waiting, (now + self._seconds, order, change))
        while self._waiting and self._waiting[0][0] <= now:
            change = heapq.heappop(self._waiting)[2]
            for folder in self._folders:
                # Another machine has written it since, and comes last.
                if folder.number != change.source and self._newest[change.name] == change.source:
                    folder.take(change)


def main(arguments: list[str]) -> None:
    """Until it is killed."""
    late = Late(float(arguments[0]), arguments[1:])
    while True:
        late.turn(time.monotonic())
        time.sleep(_POLL_S)


if __name__ == "__main__":
    main(sys.argv[1:])
