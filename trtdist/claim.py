"""One process at a time for a piece of work, where locks cannot be trusted. Standard library, Python 3.9.

A claim is a file that is made complete under another name and then linked to its own, which happens once, also on NFS.
Its holder touches it; one that was not touched for a while, or whose process is gone from this machine, is taken over.
Ages are differences between times that the file server gave, so that clocks need not agree.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable

from trtdist.process import ProcessId

__all__ = ["EXPIRY", "TOUCH", "claimed"]

TOUCH, EXPIRY = 10.0, 120.0
_POLL = 0.5


@contextmanager
def claimed(path: Path, wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the claim `path` while in `with`; until it is free, `wait` is told once by whom it is held. OSError."""
    mine = _written(path)
    told = ""
    try:
        while not _linked(mine, path):
            mine = _touched(mine, path)
            try:
                holder = _holder(path)
            except FileNotFoundError:
                continue  # it was given back meanwhile
            if holder is None or _over(path, mine, holder):
                _remove_if(path, holder)
                continue
            who = f"process {holder.get('pid')} on {holder.get('host')}"
            if who != told:
                wait(who)
                told = who
            time.sleep(_POLL)
        _sweep(path, mine)
        with _touching(path):
            yield
    finally:
        if _same(mine, path):
            path.unlink()
        mine.unlink(missing_ok=True)


def _touched(mine: Path, path: Path) -> Path:
    """The file of this process, anew when another took this process for gone while it was stopped."""
    try:
        os.utime(mine)
    except FileNotFoundError:
        return _written(path)
    return mine


def _written(path: Path) -> Path:
    """A file of this process that says who it is."""
    identity = ProcessId.of(os.getpid())
    started = identity.started if identity is not None else 0
    mine = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "token": mine.name}
    mine.write_text(json.dumps(owner), encoding="utf-8")
    return mine


def _linked(mine: Path, path: Path) -> bool:
    """Whether the claim is ours now. What link(2) answers is not asked: on NFS an answer may get lost."""
    with suppress(FileExistsError, FileNotFoundError):
        os.link(mine, path)
    return _same(mine, path)


def _same(mine: Path, path: Path) -> bool:
    try:
        return os.path.samefile(mine, path)
    except FileNotFoundError:
        return False


def _holder(path: Path) -> dict[str, Any] | None:
    """Who holds the claim; None when whoever does never said who. FileNotFoundError when nobody does."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _over(path: Path, mine: Path, holder: dict[str, Any]) -> bool:
    """Whether the holder is gone."""
    if holder.get("host") == socket.gethostname():
        with suppress(TypeError, ValueError):
            return not ProcessId(int(holder["pid"]), int(holder["started"])).alive()
    try:
        os.utime(mine)
        return mine.stat().st_mtime - path.stat().st_mtime > EXPIRY
    except FileNotFoundError:
        return False


def _remove_if(path: Path, holder: dict[str, Any] | None) -> None:
    """Remove the claim of a holder that is gone; one that somebody else has made meanwhile is put back."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    with suppress(FileNotFoundError):
        if _holder(aside) != holder:
            with suppress(FileExistsError):
                os.link(aside, path)
    aside.unlink(missing_ok=True)


def _sweep(path: Path, mine: Path) -> None:
    """Remove the files of processes that were killed before they could."""
    for left in path.parent.glob(f"{path.name}.*"):
        with suppress(FileNotFoundError):
            holder = _holder(left)
            if left != mine and holder is not None and _over(left, mine, holder):
                left.unlink()


@contextmanager
def _touching(path: Path) -> Iterator[None]:
    done = threading.Event()

    def touch() -> None:
        while not done.wait(TOUCH):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
