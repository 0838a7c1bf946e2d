"""Requests to the supervisor: files under control/, written by rename, read by a poll. Standard library, Python 3.9."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtdist.events import ControlTaken, EventReader
from trtdist.rundir import RunDir, write_atomic

__all__ = ["DOWN", "DRAIN", "INTERRUPT", "ControlReader", "Request", "ask", "taken_before"]

DOWN = "down"
DRAIN = "drain"
INTERRUPT = "interrupt"
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Request:
    """`name` is the file's, `action` is `down`, `interrupt` or `drain`, `grace` the seconds before KILL or None.

    `server` is who is to be drained, "" for other actions.
    """

    name: str
    action: str
    grace: float | None = None
    server: str = ""


def ask(run: RunDir, action: str, grace: float | None = None, server: str = "") -> str:
    """Put a request where the supervisor finds it; returns the request's name. OSError when that is impossible."""
    name = f"{time.time_ns()}-{os.getpid()}.json"
    run.control.mkdir(mode=0o700, exist_ok=True)
    try:
        asked = {"action": action, "grace": grace, **({"server": server} if server else {})}
        write_atomic(run.control / name, json.dumps(asked) + "\n")
    except OSError as error:
        if server or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _ask_by_name(run, action)
    return name


def _ask_by_name(run: RunDir, action: str) -> str:
    """A file without content, whose name ends with what is asked: it fits on a full disk."""
    name = f"{time.time_ns()}-{os.getpid()}-{action}.json"
    os.close(os.open(run.control / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return name


def taken_before(run: RunDir) -> list[str]:
    """The requests that a supervisor of an earlier attempt has taken."""
    events = [record.event for record in EventReader(run.events).poll()]
    return [event.request for event in events if isinstance(event, ControlTaken)]


class ControlReader:
    """Finds each request once; those whose names are in `seen` were found before."""

    def __init__(self, run: RunDir, seen: Iterable[str] = ()) -> None:
        self._folder = run.control
        self._seen = set(seen)

    def poll(self) -> list[Request]:
        """New requests, oldest first; what is no request is passed over."""
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(".json") and name[0] != ".")
        except FileNotFoundError:
            return []
        fresh = [name for name in names if name not in self._seen]
        self._seen.update(fresh)
        return [request for request in map(self._read, fresh) if request is not None]

    def _read(self, name: str) -> Request | None:
        by_name = name[: -len(".json")].rpartition("-")[2]
        try:
            text = _text_of_ours(self._folder / name)
            raw = json.loads(text) if text else {"action": by_name}
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(raw, Mapping) or not isinstance(raw.get("action"), str):
            return None
        return Request(name, raw["action"], _seconds(raw.get("grace")), str(raw.get("server", "")))


def _text_of_ours(path: Path) -> str:
    """What this user wrote there; OSError for a link, a pipe, or what somebody else put into the folder, ValueError for
    what is larger than a request."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or not stat.S_ISREG(status.st_mode):
            raise PermissionError(errno.EPERM, "is no file of this user", str(path))
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{path} is larger than a request")
    return data.decode("utf-8")


def _seconds(given: Any) -> float | None:
    """Seconds that make sense, else None."""
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        return None
    return min(max(0.0, float(given)), 86400.0)
