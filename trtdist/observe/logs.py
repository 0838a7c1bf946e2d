"""Which logs a run has, which of them a selector means, and their lines: from the past, merged by time, followed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import itemgetter
from pathlib import Path
from typing import Protocol

from trtdist.errors import InputError
from trtdist.observe.tail import Tail, TimeIndex, offset_since, tail_offset
from trtdist.plan import Plan
from trtdist.rundir import RunDir

__all__ = [
    "ByTime",
    "Line",
    "OneByOne",
    "Read",
    "Reading",
    "Start",
    "follow",
    "log_names",
    "matching",
    "select",
    "shown_names",
]

Read = Callable[[Tail], Iterator["tuple[int, str]"]]

_SUPERVISOR = "supervisor"
_LAUNCH = "launch."


@dataclass(frozen=True)
class Line:
    """One line of the log `name`."""

    name: str
    text: str


_Timed = tuple[float, Line]


@dataclass(frozen=True)
class Start:
    """Where the lines begin: at a time (seconds since the epoch), so many lines before the end, or with the first."""

    since: float | None = None
    tail: int | None = None

    def offset(self, log: Path) -> int:
        """The offset in bytes within a log."""
        offsets = [0]
        if self.since is not None:
            offsets.append(offset_since(log, self.since))
        if self.tail is not None:
            offsets.append(tail_offset(log, self.tail))
        return max(offsets)


def log_names(plan: Plan, run: RunDir) -> list[str]:
    """The logs that a run has or will have, in the order of its steps: `nats`, `launch.workers`, `ctx.0.0`, ..."""
    names = [_SUPERVISOR]
    for step in plan.steps:
        if step.kind != "workers":
            names.append(step.name)
            continue
        names.append(_LAUNCH + step.name)
        names += [f"{name}.{rank.rank}" for name in step.servers for rank in plan.server(name).ranks]
    found = sorted(path.stem for path in run.logs.glob("*.log")) if run.logs.is_dir() else []
    return list(dict.fromkeys([*names, *found]))


def matching(plan: Plan, run: RunDir, selector: str) -> list[str]:
    """The logs that a selector means, none when it means none.

    A log's own name, a server (`gen.0`: its ranks), a role (`gen`), a pattern over these (`gen.*`), or a step of
    workers (`workers`: what its launcher printed).
    """
    names = log_names(plan, run)
    if selector in names:
        return [selector]
    ranks = {f"{server.name}.{rank.rank}": server.name for server in plan.servers for rank in server.ranks}
    found = [name for name in names if name in ranks and selector in (ranks[name], ranks[name].split(".")[0])]
    if found:
        return found
    if selector == "workers" or any(step.name == selector for step in plan.steps):
        return [name for name in names if name.startswith(_LAUNCH) and selector in ("workers", name[len(_LAUNCH) :])]
    return [name for name in names if fnmatchcase(name, selector) or fnmatchcase(ranks.get(name, ""), selector)]


def select(plan: Plan, run: RunDir, selectors: Sequence[str], rank: int | None = None) -> list[str]:
    """The logs that the selectors mean together, all for none; InputError lists the names when one means nothing."""
    names = log_names(plan, run)
    chosen: set[str] = set() if selectors else set(names)
    for selector in selectors:
        found = matching(plan, run, selector)
        if not found:
            raise InputError(f"run {run.run_id} has no log named {selector!r}; it has {shown_names(plan, run)}")
        chosen.update(found)
    kept = [name for name in names if name in chosen]
    if rank is None:
        return kept
    of_rank = {f"{server.name}.{each.rank}" for server in plan.servers for each in server.ranks if each.rank == rank}
    kept = [name for name in kept if name in of_rank]
    if not kept:
        sizes = ", ".join(f"{server.name} has {server.size}" for server in plan.servers)
        raise InputError(f"none of the chosen servers has a rank {rank}; ranks count from 0: {sizes}")
    return kept


def shown_names(plan: Plan, run: RunDir) -> str:
    """The names of the logs as a person would choose from them: ranks folded into their servers."""
    ranks = {f"{server.name}.{rank.rank}": server.name for server in plan.servers for rank in server.ranks}
    return ", ".join(dict.fromkeys(ranks.get(name, name) for name in log_names(plan, run)))


class Reading(Protocol):
    """How the lines of several logs come: by log, or by time."""

    def past(self, read: Read) -> Iterator[Line]:
        """What is in the logs now."""
        ...

    def added(self) -> Iterator[Line]:
        """What was added since."""
        ...

    def rest(self) -> Iterator[Line]:
        """All that is left, the last line of each log also when it has no end."""
        ...


class OneByOne:
    """One log after the other."""

    def __init__(self, tails: Sequence[tuple[str, Tail]]) -> None:
        self._tails = tails

    def past(self, read: Read) -> Iterator[Line]:
        for name, tail in self._tails:
            yield from (Line(name, text) for _, text in read(tail))

    def added(self) -> Iterator[Line]:
        return self.past(Tail.read)

    def rest(self) -> Iterator[Line]:
        return self.past(Tail.read_all)


class ByTime:
    """All logs in the order in which their lines were written, as exactly as their indexes tell it.

    A log without an index comes first. While they grow, lines wait for the next look at the logs: only then nothing
    that was written before them can still be found.
    """

    def __init__(self, tails: Sequence[tuple[str, Tail]]) -> None:
        self._logs = [(name, tail, TimeIndex(tail.path.with_suffix(".idx"))) for name, tail in tails]
        self._held: list[_Timed] = []

    def past(self, read: Read) -> Iterator[Line]:
        return (line for _, line in self._sorted(read))

    def added(self) -> Iterator[Line]:
        before, new = self._held, list(self._sorted(Tail.read))
        until = before[-1][0] if before else 0.0
        self._held = [each for each in new if each[0] > until]
        due = [each for each in new if each[0] <= until]
        return (line for _, line in heapq.merge(before, due, key=itemgetter(0)))

    def rest(self) -> Iterator[Line]:
        return (line for _, line in heapq.merge(self._held, self._sorted(Tail.read_all), key=itemgetter(0)))

    def _sorted(self, read: Read) -> Iterator[_Timed]:
        return heapq.merge(*(_timed(name, tail, index, read) for name, tail, index in self._logs), key=itemgetter(0))


def follow(reading: Reading, ended: Callable[[], bool], pause: Callable[[], None]) -> Iterator[Line | None]:
    """The lines that are added, until the run has ended and everything was read; None after each round."""
    while not ended():
        quiet = True
        for line in reading.added():
            quiet = False
            yield line
        yield None
        if quiet:
            pause()
    yield from reading.rest()


def _timed(name: str, tail: Tail, index: TimeIndex, read: Read) -> Iterator[_Timed]:
    for offset, text in read(tail):
        yield index.time_at(offset), Line(name, text)
