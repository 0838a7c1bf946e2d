"""Runs that follow each other: which one is to take over from which, and which one has. Standard library, Python 3.9.

A run's `run.next` names the one that it had made beside it, whose `run.previous` names the first. Once the next one is
READY it writes `run.heir` of the first: from then on it is the one that clients mean.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from trtdist.newrun import point_to
from trtdist.rundir import LATEST, RunDir, write_atomic

__all__ = ["heir", "in_waiting", "newest", "predecessor", "successor", "successors", "take_over"]


def successor(run: RunDir) -> RunDir | None:
    """The run that is to take over from this one, or has; None without one."""
    return _named(run, run.next_run)


def predecessor(run: RunDir) -> RunDir | None:
    """The run that this one was made to take over from; None without one."""
    return _named(run, run.previous_run)


def heir(run: RunDir) -> RunDir | None:
    """The run that has taken over from this one; None while none has."""
    return _named(run, run.handed_over)


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


def take_over(run: RunDir) -> RunDir | None:
    """Have clients mean this run in place of the one before it; returns that, None when there is none to take over
    from any more. OSError."""
    before = predecessor(run)
    if before is None or heir(before) is not None:
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
