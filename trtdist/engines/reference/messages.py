"""What ranks tell each other: the leader what to do, they what came of it, and context ranks where KV caches go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

from trtdist.engines.reference.handle import Handle, Place

__all__ = [
    "Action",
    "Answer",
    "Ask",
    "Drop",
    "Failed",
    "Fetch",
    "Fetched",
    "Forward",
    "Keep",
    "Kept",
    "Message",
    "Ready",
    "Refused",
    "Release",
    "Remember",
    "Report",
    "Reuse",
    "Round",
    "Stop",
]


@dataclass(frozen=True)
class Forward:
    """Read tokens of a sequence; when `sample`, an answer's next token is chosen from the logits."""

    sequence: int
    tokens: tuple[int, ...]
    sample: bool


@dataclass(frozen=True)
class Reuse:
    """Begin a sequence with the keys and values of tokens that are held from earlier prompts."""

    sequence: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Remember:
    """Hold the keys and values of a sequence's prompt for prompts that begin alike."""

    sequence: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Keep:
    """Keep the KV cache of a sequence for a generation server, as context request `number`."""

    sequence: int
    number: int


@dataclass(frozen=True)
class Fetch:
    """Fetch this rank's heads of a kept KV cache, as the cache of a new sequence."""

    sequence: int
    handle: Handle


@dataclass(frozen=True)
class Drop:
    """A sequence is over."""

    sequence: int


@dataclass(frozen=True)
class Release:
    """Drop a kept KV cache."""

    number: int


Action = Union[Forward, Reuse, Remember, Keep, Fetch, Drop, Release]


@dataclass(frozen=True)
class Round:
    """What all ranks do next, in order."""

    actions: tuple[Action, ...]


@dataclass(frozen=True)
class Stop:
    """Leave."""


@dataclass(frozen=True)
class Ready:
    """A rank has loaded; `place` is where its KV caches are fetched from."""

    rank: int
    place: Place


@dataclass(frozen=True)
class Kept:
    """A rank keeps its heads, with a digest of each."""

    rank: int
    sequence: int
    digests: Mapping[int, str]


@dataclass(frozen=True)
class Fetched:
    """A rank has its heads: so many bytes were moved to it."""

    rank: int
    sequence: int
    size: int


@dataclass(frozen=True)
class Refused:
    """A rank did not get its heads."""

    rank: int
    sequence: int
    problem: str


@dataclass(frozen=True)
class Failed:
    """A rank can go on no more."""

    rank: int
    problem: str


Report = Union[Ready, Kept, Fetched, Refused, Failed]


@dataclass(frozen=True)
class Ask:
    """The rank `sender` wants these heads of context request `number`, for its own `sequence`."""

    number: int
    server: str
    heads: tuple[int, ...]
    sequence: int
    sender: int


@dataclass(frozen=True)
class Answer:
    """The heads that were asked for, or why there are none."""

    sequence: int
    heads: Mapping[int, bytes]
    problem: str


Message = Union[Round, Stop, Report, Ask, Answer]
