"""Which rank sits where: a GPU of its own for each while that is possible, shared GPUs otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trtdist.planning.packing import FULL, Demand, Seat, own_gpus
from trtdist.planning.sharing import share_gpus

__all__ = ["Room", "place"]

_NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Room:
    """What there is to place servers on: `nodes` of `gpus` each, as many as it takes when `nodes` is None."""

    nodes: int | None
    gpus: int
    oversubscribe: bool = False


def place(demands: Sequence[Demand], room: Room) -> list[list[Seat]] | None:
    """The seats of each server's ranks, in rank order; None when they do not fit."""
    seats, nodes = own_gpus(demands, room.gpus)
    if room.nodes is None or nodes <= room.nodes:
        return seats
    return share_gpus(demands, room.nodes, room.gpus, _NO_LIMIT if room.oversubscribe else FULL)
