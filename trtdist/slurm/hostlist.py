"""Slurm's host lists, `node[01-03,7],gpu-a`, in the order in which they were written.

`scontrol show hostnames` is the reference, and it keeps order; libraries that sort or drop doubles would move ranks to
other nodes. Not every machine that reads a run directory has scontrol, and Slurm 22.05 rejects a suffix after a
bracket (`node[1-3]-ib0`), which this module reads.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

__all__ = ["HostListError", "expand", "fold"]

MAX_HOSTS = 1_000_000

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_NUMBERED = re.compile(r"(.*?)(\d+)")


class HostListError(ValueError):
    """A host list that cannot be read; the message shows the part that is wrong."""


def expand(text: str) -> list[str]:
    """All host names of a list, in its order, doubles kept; HostListError when it is malformed."""
    hosts: list[str] = []
    for word in _words(text):
        hosts.extend(_expand_word(word))
        if len(hosts) > MAX_HOSTS:
            raise HostListError(f"host list '{text[:60]}' names more than {MAX_HOSTS} hosts")
    return hosts


def fold(hosts: Iterable[str]) -> str:
    """A short host list that expands to exactly these hosts in this order."""
    return ",".join(_fold_group(list(group)) for group in _neighbours(hosts))


def _words(text: str) -> Iterator[str]:
    """The comma-separated parts, commas inside brackets left alone."""
    depth, start = 0, 0
    for position, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if depth not in (0, 1):
            raise HostListError(f"unbalanced bracket at character {position + 1} of host list '{text}'")
        if character == "," and depth == 0:
            yield text[start:position].strip()
            start = position + 1
    if depth:
        raise HostListError(f"a bracket is not closed in host list '{text}'")
    if text.strip():
        yield text[start:].strip()


def _expand_word(word: str) -> Iterator[str]:
    if not word:
        raise HostListError("a host name is empty; look for a doubled or trailing comma")
    pieces = re.split(r"\[([^]]*)\]", word)
    choices = [list(_numbers(piece)) if index % 2 else [piece] for index, piece in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MAX_HOSTS:
        raise HostListError(f"'{word}' names more than {MAX_HOSTS} hosts")
    return ("".join(parts) for parts in itertools.product(*choices))


def _numbers(ranges: str) -> Iterator[str]:
    for part in ranges.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise HostListError(f"'{part}' is not a number or a range such as 01-16 in '[{ranges}]'")
        low, high = match[1], match[2] or match[1]
        if int(high) < int(low):
            raise HostListError(f"range '{part}' runs backwards in '[{ranges}]'")
        if int(high) - int(low) >= MAX_HOSTS:
            raise HostListError(f"range '{part}' names more than {MAX_HOSTS} hosts")
        yield from (str(number).zfill(len(low)) for number in range(int(low), int(high) + 1))


def _neighbours(hosts: Iterable[str]) -> Iterator[Iterable[str]]:
    """Runs of hosts that share the text before the number at their end."""
    return (group for _, group in itertools.groupby(hosts, key=lambda host: (_split(host)[0], host[-1].isdigit())))


def _split(host: str) -> tuple[str, str]:
    match = _NUMBERED.fullmatch(host)
    return (match[1], match[2]) if match else (host, "")


def _fold_group(hosts: list[str]) -> str:
    prefix, digits = _split(hosts[0])
    if len(hosts) == 1 or not digits:
        return ",".join(hosts)
    ranges: list[list[str]] = []
    for host in hosts:
        number = _split(host)[1]
        if ranges and number == str(int(ranges[-1][-1]) + 1).zfill(len(ranges[-1][0])):
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return f"{prefix}[{','.join(run[0] if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in ranges)}]"
