"""Servers onto nodes so that every rank has a GPU of its own, on as few nodes as possible.

Pure arithmetic over counts and sizes. A server stays on one node unless it is larger than a node; then it is spread
evenly over nodes that it has to itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

__all__ = ["FULL", "Demand", "Seat", "nodes_spanned", "own_gpus"]

FULL = 1_000_000
"""All memory of a GPU; shares are counted in millionths, so that 0.1 + 0.2 + 0.7 is exactly full."""

# So many nodes of each pattern are left to an exhaustive search, whose cost grows with their square.
_LAST = 6

# Where a rank sits: node and GPU.
Seat = tuple[int, int]


@dataclass(frozen=True)
class Demand:
    """Servers of one role: `count` servers of `size` ranks, each taking `share` millionths of each of its GPUs."""

    count: int
    size: int
    share: int


@dataclass(frozen=True)
class _Pattern:
    """How many servers of the first and of the second kind one node holds."""

    first: int
    second: int


def nodes_spanned(size: int, gpus: int) -> int:
    """The fewest nodes over which `size` ranks spread evenly, with at most `gpus` on each."""
    return next(nodes for nodes in range(math.ceil(size / gpus), size + 1) if size % nodes == 0)


def own_gpus(demands: Sequence[Demand], gpus: int) -> tuple[list[list[Seat]], int]:
    """The seats of each server's ranks, servers in order of the demands, and the number of nodes that this takes."""
    homes, width = _pack([demand for demand in demands if demand.size <= gpus], gpus)
    seats: list[list[Seat]] = []
    used = 0
    shared_from: int | None = None
    taken: Counter[int] = Counter()
    for demand in demands:
        if demand.size > gpus:
            span = nodes_spanned(demand.size, gpus)
            seats += [_spread(demand.size, range(used + span * n, used + span * (n + 1))) for n in range(demand.count)]
            used += span * demand.count
            continue
        if shared_from is None:
            shared_from, used = used, used + width
        for home in homes.pop(0):
            gpu = taken[home]
            taken[home] += demand.size
            seats.append([(shared_from + home, number) for number in range(gpu, gpu + demand.size)])
    return seats, used


def _spread(size: int, nodes: range) -> list[Seat]:
    each = size // len(nodes)
    return [(node, gpu) for node in nodes for gpu in range(each)]


def _pack(demands: Sequence[Demand], gpus: int) -> tuple[list[list[int]], int]:
    """The node of each server of each demand, and the number of nodes. At most two demands."""
    homes, width = _in_rank_order(demands, gpus)
    if len(demands) < 2:
        return homes, width
    mix = _relaxed(demands, gpus)
    if width == _rounded_up(mix):
        return homes, width
    return _by_patterns(demands, gpus, mix)


def _in_rank_order(demands: Sequence[Demand], gpus: int) -> tuple[list[list[int]], int]:
    """Each server onto the first node that has room for it."""
    free: list[int] = []
    homes: list[list[int]] = []
    for demand in demands:
        node = 0
        mine: list[int] = []
        for _ in range(demand.count):
            while node < len(free) and free[node] < demand.size:
                node += 1
            if node == len(free):
                free.append(gpus)
            free[node] -= demand.size
            mine.append(node)
        homes.append(mine)
    return homes, len(free)


def _patterns(demands: Sequence[Demand], gpus: int) -> list[_Pattern]:
    """The ways to fill a node to which nothing can be added."""
    first, second = demands
    found = [_Pattern(one, (gpus - one * first.size) // second.size) for one in range(gpus // first.size + 1)]
    return [
        pattern
        for pattern, more in zip(found, [*found[1:], _Pattern(0, -1)], strict=True)
        if more.second < pattern.second
    ]


# How many nodes of which patterns, in fractions of nodes.
_Mix = dict[_Pattern, float]


def _relaxed(demands: Sequence[Demand], gpus: int) -> _Mix:
    """The cheapest mix of patterns when nodes can be split: the linear relaxation."""
    first, second = (demand.count for demand in demands)
    patterns = _patterns(demands, gpus)
    mixes = [{pattern: _needed(pattern, first, second)} for pattern in patterns]
    for one, other in combinations(patterns, 2):
        mixes += _exactly(one, other, first, second)
    return min(mixes, key=lambda mix: sum(mix.values()))


def _rounded_up(mix: _Mix) -> int:
    """The number of whole nodes below which a relaxed mix proves that it cannot be done."""
    return math.ceil(sum(mix.values()) - 1e-9)


def _needed(pattern: _Pattern, first: int, second: int) -> float:
    if not (pattern.first and pattern.second):
        return math.inf
    return max(first / pattern.first, second / pattern.second)


def _exactly(one: _Pattern, other: _Pattern, first: int, second: int) -> Iterator[_Mix]:
    """The mix of two patterns that holds exactly so many servers of each kind, if there is one."""
    determinant = one.first * other.second - other.first * one.second
    if determinant:
        ones = (first * other.second - other.first * second) / determinant
        others = (one.first * second - first * one.second) / determinant
        if ones >= 0 and others >= 0:
            yield {one: ones, other: others}


def _by_patterns(demands: Sequence[Demand], gpus: int, mix: _Mix) -> tuple[list[list[int]], int]:
    """Whole nodes of the relaxed mix but for the last few, and those by trying everything."""
    first, second = (demand.count for demand in demands)
    nodes = [pattern for pattern, number in mix.items() for _ in range(max(0, math.floor(number) - _LAST))]
    nodes += _exhausted(
        max(0, first - sum(node.first for node in nodes)),
        max(0, second - sum(node.second for node in nodes)),
        _patterns(demands, gpus),
    )
    nodes.sort(key=lambda pattern: -pattern.first)
    return [_dealt(first, [n.first for n in nodes]), _dealt(second, [n.second for n in nodes])], len(nodes)


def _exhausted(first: int, second: int, patterns: Sequence[_Pattern]) -> list[_Pattern]:
    """The fewest nodes, by dynamic programming: the most second servers for so many nodes and first servers."""
    best = [0] + [-1] * first
    taken: list[list[_Pattern | None]] = []
    while best[first] < second:
        best, chosen = _one_more_node(best, patterns)
        taken.append(chosen)
    nodes: list[_Pattern] = []
    left = first
    for chosen in reversed(taken):
        pattern = chosen[left]
        assert pattern is not None
        nodes.append(pattern)
        left = max(0, left - pattern.first)
    return nodes


def _one_more_node(best: list[int], patterns: Sequence[_Pattern]) -> tuple[list[int], list[_Pattern | None]]:
    """For each number of first servers: the most second servers with one node more, and the pattern that gives it."""
    grown = [-1] * len(best)
    chosen: list[_Pattern | None] = [None] * len(best)
    for pattern in patterns:
        for count in range(len(best)):
            before = best[max(0, count - pattern.first)]
            if before >= 0 and before + pattern.second > grown[count]:
                grown[count] = before + pattern.second
                chosen[count] = pattern
    return grown, chosen


def _dealt(count: int, room: Sequence[int]) -> list[int]:
    """The nodes of `count` servers, filling each node's room in turn."""
    homes = [node for node, places in enumerate(room) for _ in range(places)]
    return homes[:count]
