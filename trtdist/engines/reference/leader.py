"""The engine thread of a leader: it decides, step by step, what all ranks of the server do.

Requests come in through `ask`, from the thread of the event loop; everything else is this thread's alone. In each step
every active sequence is read one piece further, so requests join and leave between steps.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Union

from trtdist.engines.base import EngineConfig, EngineError
from trtdist.engines.reference.follower import Reporting, leave
from trtdist.engines.reference.handle import Place
from trtdist.engines.reference.knobs import knobs_of
from trtdist.engines.reference.links import Links
from trtdist.engines.reference.messages import (
    Action,
    Drop,
    Failed,
    Fetch,
    Fetched,
    Forward,
    Keep,
    Kept,
    Message,
    Ready,
    Refused,
    Release,
    Remember,
    Report,
    Reuse,
    Round,
    Stop,
)
from trtdist.engines.reference.rank import Pace, RankWork
from trtdist.engines.reference.sequence import Job, Sequence
from trtdist.engines.reference.shape import CHUNK
from trtdist.engines.reference.store import Store

__all__ = ["Ask", "Cancelled", "Leader", "Released", "Stopped", "Submitted"]


@dataclass(frozen=True)
class Submitted:
    """A new request."""

    job: Job


@dataclass(frozen=True)
class Cancelled:
    """Nobody wants the rest of this request."""

    job: Job


@dataclass(frozen=True)
class Released:
    """Nobody will fetch this KV cache."""

    number: int


@dataclass(frozen=True)
class Stopped:
    """End."""


Ask = Union[Submitted, Cancelled, Released, Stopped]


class Leader:
    """What runs in the engine thread; `loaded` is called from it when requests can be taken."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        connect: Callable[[EngineConfig], Links],
        loaded: Callable[[], None],
    ) -> None:
        self._config = config
        self._store = store
        self._knobs = knobs_of(config)
        self._connect = connect
        self._loaded = loaded
        self._followers = list(range(1, config.server.size))
        self._asked: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._pace = Pace()
        self._places: dict[int, Place] = {}
        self._sequences: dict[int, Sequence] = {}
        self._numbers: dict[Job, int] = {}
        self._actions: list[Action] = []
        self._count = 0

    def ask(self, what: Ask) -> None:
        """Hand something to the engine thread; from any thread."""
        if isinstance(what, Stopped):
            self._stopping.set()
        self._asked.put(what)
        self._pace.ring()

    def run(self) -> None:
        """The life of the engine thread; raises when the engine cannot go on."""
        links = self._connect(self._config)
        with Reporting(links, 0, self._followers):
            work = self._load(links)
            while work is not None and not self._stopping.is_set():
                self._step(links, work)
            for sequence in self._sequences.values():
                sequence.cancelled()
        self._tell(links, Stop())
        leave(links, work, self._pace, self._config.patience)

    def _load(self, links: Links) -> RankWork | None:
        """The leader's own share, once all ranks have loaded; None when the engine was stopped before."""
        self._pause(links, None, self._knobs.load_delay)
        if self._stopping.is_set():
            return None
        work = RankWork(self._config, self._knobs, links, self._store, self._pace)
        self._hear(work.ready())
        while len(self._places) <= len(self._followers):
            if self._stopping.is_set():
                return None
            self._listen(links, work)
            self._pace.rest()
        self._loaded()
        return work

    def _step(self, links: Links, work: RankWork) -> None:
        self._take()
        heard = self._listen(links, work)
        reading = [sequence for sequence in self._sequences.values() if sequence.todo]
        if reading or self._actions:
            self._delay(links, work, reading)
            self._round(links, work)
            self._pace.worked()
        elif heard or work.moving():
            self._pace.worked()
        else:
            self._pace.rest()

    def _round(self, links: Links, work: RankWork) -> None:
        self._take()
        # First, so that nothing is forgotten between the look and the reuse.
        reuses = [*self._reuse(work)] if self._knobs.reuse else []
        forwards = [_forward(number, each.todo) for number, each in self._sequences.items() if each.todo]
        actions = (*reuses, *self._actions, *forwards)
        self._actions = []
        self._tell(links, Round(actions))
        logits = work.execute(actions)
        for forward in forwards:
            sequence = self._sequences[forward.sequence]
            sequence.read(len(forward.tokens))
            if forward.sample:
                sequence.chosen(logits[forward.sequence])
                self._after(forward.sequence, sequence)
        work.exit_if_told()

    def _reuse(self, work: RankWork) -> Iterator[Reuse]:
        for number, sequence in self._sequences.items():
            if sequence.todo and not sequence.begun:
                held = work.held(sequence.todo)
                if held:
                    yield Reuse(number, tuple(sequence.todo[:held]))
                    sequence.reused(held)

    def _after(self, number: int, sequence: Sequence) -> None:
        if self._knobs.reuse and not sequence.remembered:
            sequence.remembered = True
            self._actions.append(Remember(number, sequence.job.tokens))
        if sequence.context_only:
            self._actions.append(Keep(number, sequence.number))
        elif sequence.ended:
            self._end(number)

    def _take(self) -> None:
        while not self._asked.empty():
            asked = self._asked.get()
            if isinstance(asked, Submitted):
                self._admit(asked.job)
            elif isinstance(asked, Cancelled):
                self._cancel(asked.job)
            elif isinstance(asked, Released):
                self._actions.append(Release(asked.number))

    def _admit(self, job: Job) -> None:
        self._count += 1
        sequence = Sequence(job, self._config.server, secrets.randbits(63))
        self._sequences[self._count] = sequence
        self._numbers[job] = self._count
        if job.handle is not None:
            self._actions.append(Fetch(self._count, job.handle))

    def _cancel(self, job: Job) -> None:
        number = self._numbers.get(job)
        if number is None:
            return
        if self._sequences[number].context_only:
            self._actions.append(Release(self._sequences[number].number))
        self._end(number)

    def _end(self, number: int) -> None:
        self._forget(number)
        self._actions.append(Drop(number))

    def _forget(self, number: int) -> None:
        del self._numbers[self._sequences.pop(number).job]

    def _listen(self, links: Links, work: RankWork) -> bool:
        reports: list[Report] = work.poll()
        message = links.server.receive()
        while message is not None:
            if isinstance(message, (Ready, Kept, Fetched, Refused, Failed)):
                reports.append(message)
            message = links.server.receive()
        for report in reports:
            self._hear(report)
        return bool(reports)

    def _hear(self, report: Report) -> None:
        if isinstance(report, Failed):
            raise EngineError(f"rank {report.rank} failed: {report.problem}")
        if isinstance(report, Ready):
            self._places[report.rank] = report.place
            return
        sequence = self._sequences.get(report.sequence)
        if sequence is None:
            return
        if isinstance(report, Refused):
            sequence.refused(report.problem)
            self._end(report.sequence)
        elif isinstance(report, Kept):
            self._kept(report, sequence)
        elif sequence.fetched(report.size) and sequence.ended:
            self._end(report.sequence)

    def _kept(self, report: Kept, sequence: Sequence) -> None:
        places = tuple(place for _, place in sorted(self._places.items()))
        if sequence.kept(report.digests, places):
            self._forget(report.sequence)

    def _delay(self, links: Links, work: RankWork, reading: list[Sequence]) -> None:
        prompts = sum(not sequence.begun for sequence in reading)
        steps = any(sequence.begun and sequence.answering for sequence in reading)
        self._pause(links, work, prompts * self._knobs.prefill_delay + steps * self._knobs.step_delay)

    def _pause(self, links: Links, work: RankWork | None, seconds: float) -> None:
        """Let time pass while KV caches move; ends early when the engine stops."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stopping.is_set():
            if work is not None:
                self._listen(links, work)
            self._pace.rest()

    def _tell(self, links: Links, message: Message) -> None:
        for follower in self._followers:
            links.server.send(follower, message)


def _forward(number: int, todo: list[int]) -> Forward:
    return Forward(number, tuple(todo[:CHUNK]), len(todo) <= CHUNK)
