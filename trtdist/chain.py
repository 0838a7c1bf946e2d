"""Runs that follow each other: which one is to take over from which, and which one has. Standard library, Python 3.9.

A run's `run.next` names the one that it had made beside it, whose `run.previous` names the first. Once the next one is
READY it writes `run.heir` of the first: from then on it is the one that clients mean. Until then the first can call it
off, by its id in `run.called-off`, or have another one made in its place.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from trtdist.newrun import point_to
from trtdist.rundir import LATEST, RunDir, write_atomic

__all__ = [
    "awaited",
    "call_off",
    "called_off",
    "displaced",
    "heir",
    "in_waiting",
    "newest",
    "predecessor",
    "successor",
    "successors",
    "take_over",
]


def successor(run: RunDir) -> RunDir | None:
    """The run that is to take over from this one, or has; None without one."""
    return _named(run, run.next_run)


def predecessor(run: RunDir) -> RunDir | None:
    """The run that this one was made to take over from; None without one."""
    return _named(run, run.previous_run)


def heir(run: RunDir) -> RunDir | None:
    """The run that has taken over from this one; None while none has."""
    return _named(run, run.handed_over)


def awaited(run: RunDir) -> RunDir | None:
    """The run that may still take over from this one; None without one, and once one has."""
    after = successor(run)
    if after is None or heir(run) is not None or after.verdict.exists() or called_off(run, after):
        return None
    return after


def newest(run: RunDir) -> RunDir:
    """Who serves what this run was made for: itself, or whoever has taken over from it, and so on."""
    seen = {run.run_id}
    found = heir(run)
    while found is not None and found.run_id not in seen:
        seen.add(found.run_id)
        run, found = found, heir(found)
    return run


def successors(run: RunDir) -> list[RunDir]:
    """The runs that follow this one, nearest first, whether they have taken over or not."""
    found: list[RunDir] = []
    after = successor(run)
    while after is not None and after not in [run, *found]:
        found.append(after)
        after = successor(after)
    return found


def in_waiting(run: RunDir) -> bool:
    """Whether a run is there to take over from another one, which has neither ended nor handed over."""
    before = predecessor(run)
    return before is not None and not before.verdict.exists() and heir(before) is None


def call_off(run: RunDir, after: RunDir) -> None:
    """Have `after` know, whenever it looks, that it is not to take over from this run any more. OSError."""
    write_atomic(run.called_off, after.run_id + "\n")


def called_off(run: RunDir, after: RunDir) -> bool:
    """Whether `after` was called off by this run, or another one was made to take over in its place."""
    return _named(run, run.called_off) == after or successor(run) not in (None, after)


def displaced(run: RunDir) -> str:
    """Why a run that was made to take over from another one must not do so any more, as a sentence; "" when it may, or
    has done so.

    What others wrote may show up late: only what is there counts against a run, not what is missing.
    """
    before = predecessor(run)
    found = heir(before) if before is not None else None
    if before is None or found == run:
        return ""
    if found is not None:
        return f"{found.run_id} has taken over from {before.run_id}"
    if called_off(before, run):
        return f"{before.run_id} waits for it no longer"
    return "it was given up while it came up" if run.verdict.exists() else ""


def take_over(run: RunDir) -> RunDir | None:
    """Have clients mean this run in place of the one before it; returns that, None when there is none to take over
    from any more. OSError."""
    before = predecessor(run)
    if before is None or heir(before) is not None or displaced(run):
        return None
    write_atomic(before.handed_over, run.run_id + "\n")
    link = run.path.with_name(LATEST)
    with suppress(OSError):
        # Runs that somebody started since then stay the latest.
        if os.readlink(link) == before.run_id:
            point_to(run)
    return before


def _named(run: RunDir, file: Path) -> RunDir | None:
    try:
        name = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    beside = RunDir(run.path.with_name(name)) if name and "/" not in name and not name.startswith(".") else None
    return beside if beside is not None and beside.plan.is_file() else None
