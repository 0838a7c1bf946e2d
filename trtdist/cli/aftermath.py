"""Tidies up after a run whose supervisor cannot do it any more, and says how it ended."""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from trtdist.errors import TrtdistError
from trtdist.observe.snapshot import RunReader
from trtdist.observe.state import Failure
from trtdist.rundir import RunDir, write_atomic
from trtdist.supervisor import verdict
from trtdist.supervisor.facts import Death, Outcome
from trtdist.supervisor.remains import recorded_remains

__all__ = ["AFTER_GRACE", "after_death", "bury", "clean", "give_up"]

# What an orderly stop may take beyond its grace (seconds): each tier is awaited after KILL, then comes the last sweep.
AFTER_GRACE = 8.0

_HUNG = "its supervisor hung and was killed"
_PATIENCE = 5.0
_PACE = 0.02


def clean(run: RunDir) -> tuple[str, ...]:
    """Kill by exact identity what the run recorded and remove its node-local folder; returns what is left."""
    until = time.monotonic() + _PATIENCE
    remains = recorded_remains(run)
    while remains.alive() and time.monotonic() < until:
        remains.signal(signal.SIGKILL)
        time.sleep(_PACE)
        remains = recorded_remains(run)
    remains.remove_folder()
    return remains.left()


def give_up(run: RunDir, outcome: Outcome) -> Outcome:
    """Say how a run ends whose supervisor hangs, before it is killed: `down` and the command in front both look on,
    and either may be the one that finds it dead.

    It ends as asked, unless a process had died, of which a supervisor that hangs says nothing.
    """
    first = _died(run)
    if first is not None:
        outcome = Outcome("FAILED", 1, f"{first.how}; {_HUNG}", first)
    told = None if outcome.first is None else asdict(outcome.first)
    with suppress(OSError):
        write_atomic(run.given_up, json.dumps([outcome.state, outcome.exit_code, outcome.reason, told]))
    return outcome


def _died(run: RunDir) -> Death | None:
    """The process that died first by what the events tell, other than the supervisor."""
    try:
        failure = RunReader(run).look().status.failure
    except TrtdistError:
        return None
    return None if failure is None or failure.name in ("", "supervisor") else _as_death(failure)


def _as_death(failure: Failure) -> Death:
    at = failure.time or 0.0
    return Death(failure.name, failure.step, failure.code, failure.signal, at, failure.reason, 0)


def after_death(run: RunDir, death: Death) -> Outcome:
    """How a run ended whose supervisor died: as who killed it says, else because of that, or of a process that had
    died before.

    To be asked before anything is cleaned up.
    """
    with suppress(OSError, ValueError, TypeError):
        state, code, reason, first = json.loads(run.given_up.read_text(encoding="utf-8"))
        return Outcome(state, code, reason, Death(**first) if first else None)
    try:
        status = RunReader(run).look().status
    except TrtdistError:
        return _died_first(run, death)
    failure = status.failure
    if status.state == "LOST" and failure is not None:
        return Outcome("LOST", 1, failure.reason)
    if failure is None or failure.name in ("", death.name):
        return _died_first(run, death, status.supervisor_pid)
    return Outcome("FAILED", 1, f"{failure.reason}; the supervisor died after it", _as_death(failure))


def bury(run: RunDir, outcome: Outcome) -> dict[str, Any]:
    """Clean up and write the verdict, unless there is one; returns the one that holds."""
    left = clean(run)
    if left:
        outcome = Outcome(outcome.state, outcome.exit_code, outcome.reason, outcome.first, left)
    composed = verdict.compose(outcome, run, None)
    try:
        verdict.write_once(run, composed)
    except OSError:
        return composed
    return verdict.read(run) or composed


def _died_first(run: RunDir, death: Death, pid: int | None = None) -> Outcome:
    who = "the supervisor" if pid is None else f"the supervisor (pid {pid})"
    how = f": it {death.how}" if death.how else ""
    return Outcome("FAILED", 1, f"{who} died first{how}", death)
