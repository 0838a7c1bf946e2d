"""What the events of a run tell of ends and stalls, each with the file and line that tells it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from trtdist.events import (
    ControlRefused,
    ControlTaken,
    Record,
    Restarting,
    RunState,
    Stalled,
    StepExited,
    StepStarted,
    SupervisorStarted,
    TaskExited,
    TaskRefused,
    TaskStarted,
    WrittenOff,
    decode,
)
from trtdist.rundir import RunDir
from trtdist.supervisor import deaths
from trtdist.supervisor.control import DRAIN

__all__ = ["End", "Ends", "read_ends"]

_STOPS = ("STOPPING", "STOPPED", "FAILED", "INTERRUPTED", "TIMEOUT")


@dataclass(frozen=True)
class End:
    """The end of a task or step at a time (seconds since the epoch): `how` finishes the sentence "gen.0.1 ...".

    `asked` says that it came after the run began to be stopped; where a server alone was asked to leave, `how` says so.
    `file` is relative to the run directory, `line`
    counts from 1. `kind` is `end`, or `stall` for a server that made no progress.
    """

    name: str
    step: str
    at: float
    how: str
    asked: bool
    file: str
    line: int
    kind: str = "end"


@dataclass(frozen=True)
class Ends:
    """The ends in the order of time, when and where each task was last started, and how often a step was started once
    more."""

    ends: tuple[End, ...]
    started: dict[str, tuple[float, str]]
    restarts: int


@dataclass(frozen=True)
class _Told:
    """A record with the place that tells it."""

    record: Record
    file: str
    line: int


@dataclass
class _Account:
    """What was told so far of one attempt of a run: of those before it nothing is left when its supervisor begins."""

    ends: list[End] = field(default_factory=list)
    started: dict[str, tuple[float, str]] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)
    asked: float | None = None
    leaving: dict[str, str] = field(default_factory=dict)
    # Steps of which the supervisor kills what is left.
    fallen: set[str] = field(default_factory=set)

    def add(self, told: _Told) -> None:
        """Take a record down; they come in the order of time."""
        event, time = told.record.event, told.record.time
        if isinstance(event, ControlTaken) and event.action == DRAIN:
            self.leaving[event.request] = event.server
        elif isinstance(event, ControlRefused):
            self.leaving.pop(event.request, None)
        elif isinstance(event, TaskStarted):
            self.started[event.name] = (time, event.host)
        elif isinstance(event, StepStarted):
            self.starts[event.step] += 1
            self.fallen.discard(event.step)
        elif isinstance(event, (Restarting, WrittenOff)):
            self.fallen.add(event.step)
        elif isinstance(event, RunState) and event.state in _STOPS:
            self.asked = time if self.asked is None else self.asked
        end = _end(told, self.asked is not None)
        if end is not None:
            self.ends.append(self._explained(end))

    def _explained(self, end: End) -> End:
        """The end of a server that leaves alone, a step of its own having its name, or of what is left of one that has
        died."""
        if end.step in self.leaving.values():
            return replace(end, how=f"{end.how}, after `trtdist drain` had asked it to leave")
        if end.step in self.fallen and end.kind == "end":
            return replace(end, how=f"{end.how}, as trtdist ended what was left of {end.step}")
        return end


def read_ends(run: RunDir) -> Ends:
    """All that the events of a run tell of ends; of one that was queued again, since its last supervisor began."""
    account = _Account()
    for each in sorted(_told(run), key=lambda each: each.record.time):
        if isinstance(each.record.event, SupervisorStarted):
            account = _Account()
        account.add(each)
    return Ends(tuple(account.ends), account.started, account.starts.total() - len(account.starts))


def _end(told: _Told, asked: bool) -> End | None:
    event, at = told.record.event, told.record.time
    # The canary is done when it has said that the run is ready.
    if isinstance(event, (TaskExited, StepExited)) and (event.step, event.code) == ("canary", 0):
        return None
    if isinstance(event, TaskExited):
        how = deaths.in_words(event.code, event.signal)
        return End(event.name, event.step, at, how, asked, told.file, told.line)
    if isinstance(event, TaskRefused):
        return End(event.name, event.step, at, event.reason, asked, told.file, told.line)
    if isinstance(event, StepExited):
        how = f"as a whole {deaths.in_words(event.code, event.signal)}"
        return End(event.step, event.step, at, how, asked, told.file, told.line)
    if isinstance(event, Stalled):
        doing = f": it {event.doing}" if event.doing else ""
        how = f"made no progress for {event.seconds:.0f} s; {event.task} {event.how}{doing}"
        return End(event.server, event.server, at, how, asked, told.file, told.line, "stall")
    return None


def _told(run: RunDir) -> Iterator[_Told]:
    """The events that matter here; a run that lives long has many others."""
    try:
        names = sorted(name for name in os.listdir(run.events) if name.endswith(".jsonl"))
    except OSError:
        return
    for name in names:
        with open(run.events / name, "rb") as file:
            for number, line in enumerate(file, start=1):
                if b'"canary_passed"' in line[:160]:
                    continue
                record = decode(line.decode("utf-8", "replace"))
                if record is not None:
                    yield _Told(record, f"events/{name}", number)
