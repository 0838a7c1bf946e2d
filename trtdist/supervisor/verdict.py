"""How a run ended, in verdict.json: composed from an outcome, created once, never changed.

The supervisor writes it; `down` and `up` write it for a supervisor that can no longer. Standard library, Python 3.9.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtdist.plan import Plan
from trtdist.rundir import RunDir
from trtdist.supervisor.facts import Death, Outcome
from trtdist.supervisor.laggard import laggard
from trtdist.supervisor.remains import local_folder

__all__ = ["Slow", "compose", "full_disk", "log_name", "read", "reserve", "slowest", "tail", "write_once"]

LAST_LINES = 20
_TAIL_BYTES = 16384
_QUOTED = 200
_RESERVE_BYTES = 65536
# As Python's faulthandler writes stacks, which the supervisor asks for shortly before it gives a run up.
_STACK = re.compile(r'(Current thread|Thread) 0x[0-9a-f]+ .*\(most recent call first\):$| +File ".*", line \d+ in ')


def compose(
    outcome: Outcome, run: RunDir, plan: Plan | None, slow: Slow | None = None, full: Path | None = None
) -> dict[str, Any]:
    """The content of verdict.json, with the last lines of whoever died first and a word on a disk that is full, or
    was (`full`) before the run left it."""
    reason, first = outcome.reason, None
    lines: list[str] = []
    if outcome.first is not None:
        log, lines = _last_words(run, plan, outcome.first)
        first = _first(outcome.first, str(log.relative_to(run.path)))
        if outcome.state == "TIMEOUT":
            own, lines = _unasked(run.log(log_name(plan, outcome.first))), _unasked(log)
            # What its launch line printed may be what came of being stopped.
            reason += f", and the last line of its log is {own[-1][:_QUOTED]!r}" if own else ""
    elif slow is not None:
        lines, first = list(slow.lines), slow.first
        reason += slow.said
    full = full or full_disk(run)
    if outcome.state in ("FAILED", "TIMEOUT") and full is not None and "disk" not in reason:
        reason += f"; the disk of {full} is full"
    return {
        "state": outcome.state,
        "exit_code": outcome.exit_code,
        "reason": reason,
        "first": first,
        "last_lines": lines,
        "left": list(outcome.left),
        "time": time.time(),
    }


@dataclass(frozen=True)
class Slow:
    """Who kept a run from being ready in which nothing died, with the end of its log at that time."""

    name: str
    log: str
    lines: tuple[str, ...]

    @property
    def said(self) -> str:
        """The end of the sentence that says how far each server got."""
        told = f"whose log ends with {self.lines[-1]!r}" if self.lines else "whose log is empty"
        return f"; behind is {self.name}, {told}"

    @property
    def first(self) -> dict[str, Any]:
        """As verdict.json names it."""
        return {"name": self.name, "step": None, "code": None, "signal": None, "time": None, "log": self.log}


def slowest(run: RunDir, plan: Plan, servers: Sequence[str]) -> Slow | None:
    """Who is behind of these servers, None when that cannot be told; asked before they are stopped."""
    found = laggard(run, plan, servers)
    if found is None:
        return None
    log = run.log(found.log)
    return Slow(found.name, str(log.relative_to(run.path)), tuple(_unasked(log)))


def log_name(plan: Plan | None, death: Death) -> str:
    """The name of the log that tells of a death: the task's own, or that of the launcher of a step of ranks."""
    steps = plan.steps if plan is not None else ()
    launcher = any(step.name == death.name and step.kind == "workers" for step in steps)
    return f"launch.{death.name}" if launcher else death.name


def _first(death: Death, log: str) -> dict[str, Any]:
    return {
        "name": death.name,
        "step": death.step,
        "code": death.code,
        "signal": death.signal,
        "time": death.at or None,
        "log": log,
    }


def _last_words(run: RunDir, plan: Plan | None, death: Death) -> tuple[Path, list[str]]:
    """The end of its log, or, when it never got to write one, of what its launch line printed; and which log it is."""
    own, launching = run.log(log_name(plan, death)), run.log(f"launch.{death.step}")
    lines = tail(own)
    if lines:
        return own, lines
    # What every rank of a node says there is told once.
    lines = list(dict.fromkeys(tail(launching)))
    return (launching, lines) if lines else (own, [])


def tail(path: Path, lines: int = LAST_LINES) -> list[str]:
    """The last lines of a file, read from its end; none when there is no file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            data = file.read(_TAIL_BYTES)
    except OSError:
        return []
    found = data.decode("utf-8", "replace").splitlines()
    cut = found[1:] if size > _TAIL_BYTES and len(found) > 1 else found
    return [line.rstrip() for line in cut if line.strip()][-lines:]


def _unasked(log: Path) -> list[str]:
    """The last lines that a program wrote of itself, without the stacks that it was asked for."""
    return [line for line in tail(log, _TAIL_BYTES) if not _STACK.match(line)][-LAST_LINES:]


def full_disk(run: RunDir) -> Path | None:
    """The run directory or the node-local folder, if its disk has no room left for files of ours."""
    return next((path for path in (run.path, local_folder(run)) if _no_room(path)), None)


def _no_room(path: Path) -> bool:
    try:
        stat = os.statvfs(path)
    except OSError:
        return False
    return stat.f_blocks > 0 and stat.f_bavail * stat.f_frsize < _RESERVE_BYTES


def reserve(run: RunDir) -> None:
    """Lay some room aside, so that a verdict can be written on a full disk. OSError when it is full already."""
    with open(_reserve(run), "wb") as file:
        file.write(b"\0" * _RESERVE_BYTES)


def write_once(run: RunDir, verdict: dict[str, Any]) -> bool:
    """Create verdict.json; False, with nothing changed, when there is one already. OSError when there is no room.

    Whoever links the finished file first has written it, also on network file systems.
    """
    _reserve(run).unlink(missing_ok=True)
    part = run.path / f".verdict.{os.getpid()}"
    try:
        with open(part, "w", encoding="utf-8") as file:
            json.dump(verdict, file, indent=1, ensure_ascii=False)
            file.write("\n")
        os.link(part, run.verdict)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        return _create(run.verdict, part)
    finally:
        part.unlink(missing_ok=True)
    return True


def read(run: RunDir) -> dict[str, Any] | None:
    """The verdict; None while there is none."""
    try:
        found = json.loads(run.verdict.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _create(path: Path, part: Path) -> bool:
    """For file systems without hard links."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(part.read_bytes())
    return True


def _reserve(run: RunDir) -> Path:
    return run.path / ".reserve"
