"""How KV caches move from context ranks to generation ranks: the seam, and the way over MPI."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from trtdist.engines.reference.handle import Handle, Place
from trtdist.engines.reference.links import Mailbox
from trtdist.engines.reference.messages import Answer, Ask
from trtdist.engines.reference.shape import heads_of
from trtdist.engines.reference.store import Store

__all__ = ["FETCH_S", "Arrival", "MpiTransport", "Transport", "gone", "shares"]

# A transfer that takes longer than so many seconds has failed.
FETCH_S = 30.0


@dataclass(frozen=True)
class Arrival:
    """What came of a fetch: the heads as bytes, or why not."""

    sequence: int
    heads: Mapping[int, bytes]
    problem: str = ""


class Transport(Protocol):
    """Fetches KV caches for generation ranks and serves those of context ranks."""

    place: Place

    def fetch(self, sequence: int, handle: Handle, heads: range) -> None:
        """Begin to fetch these heads."""
        ...

    def poll(self) -> list[Arrival]:
        """Serve whoever asks; gives the fetches that ended. Does not wait."""
        ...

    def close(self) -> None:
        """Serve no more."""
        ...


def shares(handle: Handle, heads: range) -> list[tuple[Place, tuple[int, ...]]]:
    """Which context rank has which of the heads that are wanted."""
    tp = len(handle.places)
    wanted = [tuple(head for head in heads_of(rank, tp) if head in heads) for rank in range(tp)]
    return [(place, some) for place, some in zip(handle.places, wanted) if some]


def gone(handle_number: int, server: str) -> str:
    """Why a context server sends nothing."""
    return f"{server} has no KV cache for context request {handle_number}: it was fetched, released or kept too long"


@dataclass
class _Fetch:
    waiting: int
    until: float
    heads: dict[int, bytes] = field(default_factory=dict)


class MpiTransport:
    """KV caches point to point between ranks of one MPI world; `rank` is this one's, and its place."""

    def __init__(self, rank: int, mailbox: Mailbox, store: Store) -> None:
        self.place: Place = rank
        self._rank = rank
        self._mailbox = mailbox
        self._store = store
        self._fetches: dict[int, _Fetch] = {}
        self._ended: list[Arrival] = []

    def fetch(self, sequence: int, handle: Handle, heads: range) -> None:
        """Ask each context rank that has some of the heads."""
        asked = shares(handle, heads)
        self._fetches[sequence] = _Fetch(len(asked), time.monotonic() + FETCH_S)
        for place, some in asked:
            assert isinstance(place, int)
            self._mailbox.send(place, Ask(handle.number, handle.server, some, sequence, self._rank))

    def poll(self) -> list[Arrival]:
        """Take what arrived: questions are answered, answers collected."""
        message = self._mailbox.receive()
        while message is not None:
            if isinstance(message, Ask):
                self._serve(message)
            elif isinstance(message, Answer):
                self._take(message)
            message = self._mailbox.receive()
        for sequence in [key for key, fetch in self._fetches.items() if fetch.until < time.monotonic()]:
            self._end(sequence, f"the KV cache did not arrive within {FETCH_S:g} s")
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Nothing to close: the mailbox is the links'."""

    def _serve(self, ask: Ask) -> None:
        heads = self._store.get(ask.number, ask.heads)
        problem = gone(ask.number, ask.server) if heads is None else ""
        self._mailbox.send(ask.sender, Answer(ask.sequence, heads or {}, problem))
        self._store.sent(ask.number, ask.heads if heads else ())

    def _take(self, answer: Answer) -> None:
        fetch = self._fetches.get(answer.sequence)
        if fetch is None:
            return
        fetch.heads.update(answer.heads)
        fetch.waiting -= 1
        if answer.problem or not fetch.waiting:
            self._end(answer.sequence, answer.problem)

    def _end(self, sequence: int, problem: str) -> None:
        fetch = self._fetches.pop(sequence)
        self._ended.append(Arrival(sequence, fetch.heads, problem))
