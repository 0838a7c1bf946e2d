"""Servers onto a fixed number of nodes where GPUs must be shared: memory shares add up to a GPU and no further."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trtdist.planning.packing import FULL, Demand, Seat, nodes_spanned

__all__ = ["share_gpus"]


@dataclass(frozen=True)
class _Option:
    """The seats that a node can give to the next server; the lowest `cost` is taken."""

    cost: tuple[int, ...]
    gpus: tuple[int, ...]


# How much of each GPU of a node is taken, the ranks wanted, the share of each, and what must not be exceeded.
_Choose = Callable[[Sequence[int], int, int, int], "_Option | None"]


def share_gpus(demands: Sequence[Demand], nodes: int, gpus: int, limit: int = FULL) -> list[list[Seat]] | None:
    """The seats of each server's ranks with at most `limit` on each GPU; None when no way was found.

    First evenly, in rank order: free GPUs while there are any, then the emptiest. If that leads nowhere, largest
    shares first, each onto the fullest GPUs that still have room.
    """
    servers = [(demand.size, demand.share) for demand in demands for _ in range(demand.count)]
    if any(nodes_spanned(demand.size, gpus) > nodes for demand in demands):
        return None
    if sum(size * share for size, share in servers) > nodes * gpus * limit:
        return None
    in_order = range(len(servers))
    by_share = sorted(in_order, key=lambda number: (-servers[number][1], -servers[number][0], number))
    for order, choose in ((in_order, _emptiest), (by_share, _fullest)):
        seats = _place(servers, order, choose, [[0] * gpus for _ in range(nodes)], limit)
        if seats is not None:
            return seats
    return None


def _emptiest(loads: Sequence[int], ranks: int, share: int, limit: int) -> _Option | None:
    chosen = sorted(range(len(loads)), key=lambda gpu: (loads[gpu], gpu))[:ranks]
    highest = loads[chosen[-1]]
    if highest + share > limit:
        return None
    used = sum(1 for gpu in chosen if loads[gpu])
    return _Option((used, highest), tuple(sorted(chosen)))


def _fullest(loads: Sequence[int], ranks: int, share: int, limit: int) -> _Option | None:
    able = [gpu for gpu in range(len(loads)) if loads[gpu] + share <= limit]
    if len(able) < ranks:
        return None
    chosen = sorted(able, key=lambda gpu: (-loads[gpu], gpu))[:ranks]
    return _Option((-sum(loads[gpu] for gpu in chosen),), tuple(sorted(chosen)))


class _Offers:
    """What each node offers to servers of one kind, the cheapest first."""

    def __init__(self, options: Iterable[_Option | None]) -> None:
        self._current = list(options)
        self._heap = [(option.cost, node) for node, option in enumerate(self._current) if option is not None]
        heapq.heapify(self._heap)

    def renew(self, node: int, option: _Option | None) -> None:
        """A node offers something else now."""
        self._current[node] = option
        if option is not None:
            heapq.heappush(self._heap, (option.cost, node))

    def take(self, nodes: int) -> list[Seat] | None:
        """The seats on the cheapest nodes, whose offers must be renewed then; None when there are not so many."""
        chosen: dict[int, _Option] = {}
        while len(chosen) < nodes:
            if not self._heap:
                return None
            cost, node = heapq.heappop(self._heap)
            option = self._current[node]
            # What was pushed before a renewal may lie in the heap still.
            if option is not None and option.cost == cost:
                chosen[node] = option
        return [(node, gpu) for node in sorted(chosen) for gpu in chosen[node].gpus]


def _place(
    servers: Sequence[tuple[int, int]], order: Sequence[int], choose: _Choose, loads: list[list[int]], limit: int
) -> list[list[Seat]] | None:
    """Seat servers one after the other in `order`; the result is in the servers' own order."""
    seats: list[list[Seat]] = [[] for _ in servers]
    offers: dict[tuple[int, int], _Offers] = {}
    for number in order:
        size, share = servers[number]
        span = nodes_spanned(size, len(loads[0]))
        kind = (size // span, share)
        if kind not in offers:
            offers[kind] = _Offers(choose(load, *kind, limit) for load in loads)
        found = offers[kind].take(span)
        if found is None:
            return None
        seats[number] = found
        for node, gpu in found:
            loads[node][gpu] += share
        for node in {node for node, _ in found}:
            for other, known in offers.items():
                known.renew(node, choose(loads[node], *other, limit))
    return seats
