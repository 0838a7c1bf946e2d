"""Finds lines that mean something in logs of any size, in bounded memory.

A gigabyte of log is mostly lines that mean nothing. `grep` passes over them at its own speed and hands out the few
that hold a literal of a signature; where there is none that can, slower means of our own do the same.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from trtdist.observe.signatures import Signature, Signatures, plain
from trtdist.observe.tail import TimeIndex

__all__ = ["Found", "Hit", "by_grep", "by_hand", "scan"]

# What of a line is looked at, around the first literal in it, and what of that is kept.
_LOOKED_AT, _KEPT = 1 << 13, 500
_FIRST, _LAST = 4, 16
_CHUNK = 1 << 20
# A line as long as that is handed to by_hand, which needs no more memory for it.
_GREP_MEMORY = 48 << 20
_AT_ONCE = 2
_SPECIAL = re.compile(rb"[\\^$.*+?()\[\]{}|]")

Place = tuple[Path, int, int, bytes]


@dataclass(frozen=True)
class Hit:
    """A line that means something: `log` is its log's name, `line` counts from 1, `at` is when it was written (seconds
    since the epoch, early by a second at most), None when that is not known; `task` is its label by srun."""

    signature: Signature
    log: str
    line: int
    at: float | None
    text: str
    task: int | None = None


@dataclass
class _Kept:
    """What is kept of all the hits of one signature in one log."""

    count: int = 0
    first: list[tuple[int, int, str, int | None]] = field(default_factory=list)
    last: deque[tuple[int, int, str, int | None]] = field(default_factory=lambda: deque(maxlen=_LAST))

    def add(self, hit: tuple[int, int, str, int | None]) -> None:
        self.count += 1
        (self.first if len(self.first) < _FIRST else self.last).append(hit)


@dataclass(frozen=True)
class Found:
    """The first and last hits of each signature in each log, in the order of logs and lines, and how many there are."""

    hits: tuple[Hit, ...]
    counts: dict[tuple[str, str], int]


class _NoGrep(Exception):
    """There is no grep that can do it."""


def scan(logs: Sequence[Path], signatures: Signatures) -> Found:
    """The hits in logs; those that cannot be read are passed over."""
    there = sorted((log for log in logs if _size(log)), key=_size, reverse=True)
    shares = [share for share in (there[place::_AT_ONCE] for place in range(_AT_ONCE)) if share]
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        kept = [pair for found in pool.map(lambda share: _share(share, signatures), shares) for pair in found.items()]
    kept.sort(key=lambda pair: (pair[0][0], pair[0][1]))
    hits = [
        hit
        for log in there
        for hit in _hits(log, [(code, each) for (path, code), each in kept if path == log], signatures)
    ]
    return Found(tuple(hits), {(path.stem, code): each.count for (path, code), each in kept})


def _share(logs: Sequence[Path], signatures: Signatures) -> dict[tuple[Path, str], _Kept]:
    try:
        return _fold(by_grep(logs, signatures.literals), signatures)
    except _NoGrep:
        return _fold((place for log in logs for place in by_hand(log, signatures.literals)), signatures)


def _fold(places: Iterable[Place], signatures: Signatures) -> dict[tuple[Path, str], _Kept]:
    found: dict[tuple[Path, str], _Kept] = {}
    for path, line, offset, raw in places:
        for piece in raw.split(b"\r"):
            told = plain(_around(piece, signatures.literals).decode("utf-8", "replace"))
            signature = signatures.match(told.text)
            if signature is not None:
                kept = found.setdefault((path, signature.code), _Kept())
                kept.add((line, offset, told.text[:_KEPT].strip(), told.task))
    return found


def _around(line: bytes, literals: Sequence[bytes]) -> bytes:
    """A line, or of one that is too long the part around its first literal."""
    if len(line) <= _LOOKED_AT:
        return line
    place = min((at for at in (line.find(word) for word in literals) if at >= 0), default=0)
    return line[max(0, place - _LOOKED_AT // 2) :][:_LOOKED_AT]


def _hits(log: Path, kept: Sequence[tuple[str, _Kept]], signatures: Signatures) -> list[Hit]:
    index = TimeIndex(log.with_suffix(".idx"))
    lines = sorted((hit[1], hit, code) for code, each in kept for hit in (*each.first, *each.last))
    return [
        Hit(signatures[code], log.stem, line, index.time_at(offset) or None, text, task)
        for offset, (line, _, text, task), code in lines
    ]


def by_grep(logs: Sequence[Path], literals: Sequence[bytes]) -> Iterator[Place]:
    """The lines that hold a literal, each with its log, its number and the offset of its first byte."""
    words = ["grep", "--text", "--byte-offset", "--line-number", "--extended-regexp", "--with-filename", "--null"]
    # One automaton for all is several times as fast as --fixed-strings with that many.
    any_of = b"|".join(_SPECIAL.sub(rb"\\\g<0>", literal) for literal in literals)
    process = _grep([*words, "--file=-", "--", *map(str, logs)], any_of)
    assert process.stdout is not None
    with process.stdout as output:
        while head := output.readline(_CHUNK):
            line = head.removesuffix(b"\n")
            while not head.endswith(b"\n") and (head := output.readline(_CHUNK)):
                line = line[:_CHUNK]
            name, _, rest = line.partition(b"\0")
            number, offset, text = rest.split(b":", 2)
            yield Path(os.fsdecode(name)), int(number), int(offset), text
    if process.wait() not in (0, 1):
        raise _NoGrep


def _grep(words: Sequence[str], literals: bytes) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            words, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise _NoGrep from error
    resource.prlimit(process.pid, resource.RLIMIT_AS, (_GREP_MEMORY, _GREP_MEMORY))
    assert process.stdin is not None
    try:
        with process.stdin as given:
            given.write(literals)
    except BrokenPipeError as error:
        process.wait()
        raise _NoGrep from error
    return process


def by_hand(log: Path, literals: Sequence[bytes]) -> Iterator[Place]:
    """As `by_grep`, of one log; a line longer than a chunk is taken in pieces."""
    number, offset, rest = 1, 0, b""
    try:
        with open(log, "rb") as file:
            while chunk := file.read(_CHUNK):
                data = rest + chunk
                cut = data.rfind(b"\n") + 1
                cut = cut or (len(data) if len(data) > _CHUNK else 0)
                whole, rest = data[:cut], data[cut:]
                yield from _in_chunk(log, number, offset, whole, literals)
                number, offset = number + whole.count(b"\n"), offset + len(whole)
            yield from _in_chunk(log, number, offset, rest, literals)
    except OSError:
        return


def _in_chunk(log: Path, number: int, offset: int, data: bytes, literals: Sequence[bytes]) -> Iterator[Place]:
    starts: set[int] = set()
    for word in literals:
        at = data.find(word)
        while at >= 0:
            starts.add(data.rfind(b"\n", 0, at) + 1)
            end = data.find(b"\n", at)
            at = data.find(word, end) if end >= 0 else -1
    counted = 0
    for start in sorted(starts):
        number, counted = number + data.count(b"\n", counted, start), start
        end = data.find(b"\n", start)
        yield log, number, offset + start, data[start : end if end >= 0 else len(data)]


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0
