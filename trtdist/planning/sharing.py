"""Servers onto a fixed number of nodes where GPUs must be shared: memory shares add up to a GPU and no further."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
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


def _place(
    servers: Sequence[tuple[int, int]], order: Sequence[int], choose: _Choose, loads: list[list[int]], limit: int
) -> list[list[Seat]] | None:
    """Seat servers one after the other in `order`; the result is in the servers' own order."""
    seats: list[list[Seat]] = [[] for _ in servers]
    gpus = len(loads[0])
    # What each node offers to servers of a size, until something is placed on it.
    known: dict[tuple[int, int], list[_Option | None]] = {}
    for number in order:
        size, share = servers[number]
        span = nodes_spanned(size, gpus)
        kind = (size // span, share)
        if kind not in known:
            known[kind] = [choose(load, *kind, limit) for load in loads]
        options = known[kind]
        able = ((option.cost, node) for node, option in enumerate(options) if option is not None)
        best = sorted(node for _, node in heapq.nsmallest(span, able))
        if len(best) < span:
            return None
        for node in best:
            option = options[node]
            assert option is not None
            for gpu in option.gpus:
                loads[node][gpu] += share
                seats[number].append((node, gpu))
            for other, offers in known.items():
                offers[node] = choose(loads[node], *other, limit)
    return seats
