"""A deployment that does not fit, and the smallest changes with which it would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from trtdist.errors import InputError
from trtdist.planning.packing import FULL, Demand, own_gpus
from trtdist.planning.placement import Room, place

__all__ = ["PlanError", "Remedy", "Section", "remedies"]

_MOST_SHOWN = 3
_FRACTION = "kv_cache_config.free_gpu_memory_fraction"


@dataclass(frozen=True)
class Remedy:
    """A change that makes a plan possible: values by the paths that `--set` takes."""

    changes: tuple[tuple[str, int | float | bool], ...]

    @property
    def overrides(self) -> tuple[str, ...]:
        """The change as `--set` options."""
        return tuple(f"{path}={str(value).lower()}" for path, value in self.changes)

    def __str__(self) -> str:
        return " ".join(f"--set {override}" for override in self.overrides)


class PlanError(InputError):
    """A topology cannot be planned; `remedies` are changes that help, each by itself, best first."""

    def __init__(self, problem: str, remedies: Sequence[Remedy] = ()) -> None:
        self.remedies = tuple(remedies)
        shown = ", or ".join(str(remedy) for remedy in self.remedies[:_MOST_SHOWN])
        super().__init__(f"{problem}: give {shown}" if shown else problem)


@dataclass(frozen=True)
class Section:
    """A server section of the topology by its key: its demand, and the sizes of each kind of parallelism."""

    key: str
    demand: Demand
    parallel: Mapping[str, int]

    def capped(self, kind: str, limit: int) -> Section:
        """The section with one kind of parallelism lowered to its largest divisor up to a limit."""
        size = self.parallel[kind]
        lower = max(each for each in range(1, min(size, limit) + 1) if size % each == 0)
        demand = replace(self.demand, size=self.demand.size // size * lower)
        return replace(self, demand=demand, parallel={**self.parallel, kind: lower})


def remedies(sections: Sequence[Section], room: Room, nodes_are_ours: bool) -> tuple[Remedy, ...]:
    """The smallest changes of each kind that make the sections fit, best kind first."""
    return (
        *(_more_nodes(sections, room) if nodes_are_ours else ()),
        *_less_memory(sections, room),
        *_fewer_ranks(sections, room),
        *_fewer_servers(sections, room),
        *_oversubscribed(sections, room),
    )


def _fits(sections: Sequence[Section], room: Room) -> bool:
    return place([section.demand for section in sections], room) is not None


def _more_nodes(sections: Sequence[Section], room: Room) -> Iterator[Remedy]:
    assert room.nodes is not None
    _, enough = own_gpus([section.demand for section in sections], room.gpus)
    nodes = _least(room.nodes + 1, enough, lambda nodes: _fits(sections, replace(room, nodes=nodes)))
    if nodes is not None:
        yield Remedy((("slurm.nodes", nodes),))


def _less_memory(sections: Sequence[Section], room: Room) -> Iterator[Remedy]:
    """A cap on the fractions of all servers, in hundredths."""

    def capped(percent: int) -> list[Section]:
        share = percent * FULL // 100
        return [replace(each, demand=replace(each.demand, share=min(each.demand.share, share))) for each in sections]

    taken = _least(1, 95, lambda taken: _fits(capped(100 - taken), room))
    if taken is not None:
        percent = 100 - taken
        share = percent * FULL // 100
        lowered = [section.key for section in sections if section.demand.share > share]
        yield Remedy(tuple((f"{key}.{_FRACTION}", percent / 100) for key in lowered))


def _fewer_ranks(sections: Sequence[Section], room: Room) -> Iterator[Remedy]:
    """Less parallelism of one kind, in one section or, where that does not do, in all of them."""
    for kind in ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"):
        found = [
            remedy
            for chosen in [{section.key} for section in sections]
            if (remedy := _narrower(sections, room, kind, chosen)) is not None
        ]
        whole = {section.key for section in sections}
        last = None if found else _narrower(sections, room, kind, whole)
        yield from found
        yield from () if last is None else (last,)


def _narrower(sections: Sequence[Section], room: Room, kind: str, chosen: Set[str]) -> Remedy | None:
    most = max(section.parallel[kind] for section in sections if section.key in chosen)
    for limit in range(most - 1, 0, -1):
        capped = [section.capped(kind, limit) if section.key in chosen else section for section in sections]
        if _fits(capped, room):
            pairs = zip(sections, capped, strict=True)
            changed = [(after.key, after.parallel[kind]) for before, after in pairs if before != after]
            return Remedy(tuple((f"{key}.{kind}", size) for key, size in changed))
    return None


def _fewer_servers(sections: Sequence[Section], room: Room) -> Iterator[Remedy]:
    for number, section in enumerate(sections):
        count = section.demand.count

        def fits(fewer: int, number: int = number, section: Section = section, count: int = count) -> bool:
            demand = replace(section.demand, count=count - fewer)
            return _fits(_with(sections, number, replace(section, demand=demand)), room)

        fewer = _least(1, count - 1, fits)
        if fewer is not None:
            yield Remedy(((f"{section.key}.num_instances", count - fewer),))


def _oversubscribed(sections: Sequence[Section], room: Room) -> Iterator[Remedy]:
    if _fits(sections, replace(room, oversubscribe=True)):
        yield Remedy((("oversubscribe", True),))


def _with(sections: Sequence[Section], number: int, section: Section) -> list[Section]:
    return [*sections[:number], section, *sections[number + 1 :]]


def _least(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The least number for which a condition holds, if it holds for all above; None if it does not hold for `high`."""
    if low > high or not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
