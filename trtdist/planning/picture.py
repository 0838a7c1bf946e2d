"""The plan as a map that a person reads at a glance. Plain ASCII."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from trtdist.plan import GpuLoad, Plan, Server, Step

__all__ = ["picture"]

_MOST_NODES = 40
_HEAD_NODES, _TAIL_NODES = 12, 2
_MOST_STEPS = 12
_MOST_NAMES = 2
_ORDER = ("first", "second", "third")
_LABELS = {"tensor_parallel_size": "TP", "pipeline_parallel_size": "PP", "context_parallel_size": "CP"}


def picture(plan: Plan) -> str:
    """The map: servers, nodes with their GPUs, steps, the allocation, and why it is so."""
    parts = [_head(plan), _servers(plan), _grid(plan), _steps(plan), _allocation(plan), _why(plan)]
    return "\n\n".join("\n".join(part) for part in parts)


def _head(plan: Plan) -> list[str]:
    worlds = "one MPI world" if plan.launch == "mpi_world" else "one MPI world for each server"
    return [
        f"{plan.name}: {plan.model}",
        f"  engine {plan.engine}, runtime {plan.runtime}, router {plan.router_policy}",
        f"  {plan.launch}: world size {plan.world_size}, {worlds}",
    ]


def _servers(plan: Plan) -> list[str]:
    rows = [("servers", "shape", "ranks each", "world ranks", "memory of each GPU")]
    for _, members in groupby(plan.servers, lambda server: server.role):
        same = list(members)
        first, last = same[0], same[-1]
        names = first.name if first is last else f"{first.name} - {last.name} ({len(same):,})"
        shape = " ".join(
            f"{label}{size}" for field, label in _LABELS.items() if (size := getattr(first, field)) > 1 or label == "TP"
        )
        ranks = _span(first.ranks[0].world_rank, last.ranks[-1].world_rank)
        rows.append((f"{first.role}: {names}", shape, str(first.size), ranks, f"{first.memory_fraction:.0%}"))
    return _table(rows)


def _grid(plan: Plan) -> list[str]:
    """A row per node, a column per GPU; leaders have a star."""
    leaders = {(server.name, server.leader.node, server.leader.gpu) for server in plan.servers}
    columns = 1 + max(load.gpu for load in plan.gpus)
    ranks = _ranks_by_node(plan.servers)
    rows = [("node", *(f"GPU {gpu}" for gpu in range(columns)), "world ranks", "memory")]
    loads = {node: list(here) for node, here in groupby(plan.gpus, lambda load: load.node)}
    shown = _some(sorted(loads))
    for node in shown:
        cells = ["-"] * columns
        for load in loads[node]:
            cells[load.gpu] = _cell(load, leaders)
        rows.append((str(node), *cells, _spans(ranks[node]), _memory(loads[node])))
    lines = _table(rows)
    if len(shown) < len(loads):
        lines.insert(1 + _HEAD_NODES, f"   ... {len(loads) - len(shown):,} nodes more; --json has all of them ...")
    return [*lines, "  * leads its server" + (", + shares the GPU" if _shared(plan) else "")]


def _cell(load: GpuLoad, leaders: set[tuple[str, int, int]]) -> str:
    names = [f"{name}*" if (name, load.node, load.gpu) in leaders else name for name in load.servers]
    more = len(names) - _MOST_NAMES
    return "+".join(names) if more <= 1 else "+".join([*names[:_MOST_NAMES], f"{more} more"])


def _memory(loads: Sequence[GpuLoad]) -> str:
    found = list(dict.fromkeys(f"{load.fraction:.0%}" for load in loads))
    return found[0] if len(found) == 1 else " ".join(f"{load.fraction:.0%}" for load in loads)


def _ranks_by_node(servers: Sequence[Server]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for server in servers:
        for rank in server.ranks:
            found.setdefault(rank.node, []).append(rank.world_rank)
    return found


def _steps(plan: Plan) -> list[str]:
    """A row per step; of many alike only the first and the last."""
    rows: list[tuple[str, ...]] = [("steps", "what", "tasks", "nodes", "stopped")]
    tiers = sorted({step.tier for step in plan.steps})
    for _, group in groupby(plan.steps, lambda step: step.kind):
        same = list(group)
        few = same if len(same) <= _MOST_STEPS else [same[0], same[1], same[-1]]
        found = [_step(step, _ORDER[tiers.index(step.tier)]) for step in few]
        if len(few) < len(same):
            found.insert(-1, ("...", f"{len(same) - len(few):,} more like these", "", "", ""))
        rows += found
    return _table(rows)


def _step(step: Step, stopped: str) -> tuple[str, ...]:
    return (step.stem, _what(step), str(step.tasks), _spans(sorted(set(step.nodes))), stopped)


def _what(step: Step) -> str:
    if step.kind != "workers":
        return {
            "service": "head service",
            "router": "chooses servers",
            "front": "speaks HTTP",
            "canary": "proves that all answer",
        }[step.kind]
    names = step.servers
    return names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}" if len(names) > 3 else ", ".join(names)


def _allocation(plan: Plan) -> list[str]:
    asked = plan.allocation
    memory = "all memory" if asked.mem == 0 else f"{asked.mem:,} MB"
    tasks = f"{_count(asked.tasks_per_node, 'task')} of {_count(asked.cpus_per_task, 'CPU')}"
    gpus = _count(asked.gpus_per_node, "GPU") if asked.gpus_per_node else "no GPU"
    nodes = f"{_count(asked.nodes, 'node')}, each with {gpus}"
    return ["allocation", f"  {nodes}, {tasks}, {memory}"]


def _why(plan: Plan) -> list[str]:
    return ["why", *(f"  {reason}" for reason in _reasons(plan))]


def _reasons(plan: Plan) -> Iterator[str]:
    wide = [server for server in plan.servers if len({rank.node for rank in server.ranks}) > 1]
    if _shared(plan):
        most = max(load.fraction for load in plan.gpus)
        yield f"there are fewer GPUs than ranks: they are shared, up to {most:.0%} of the memory of one"
        if most > 1:
            yield "oversubscribe: true allows more than 100 %"
    else:
        yield "each rank has a GPU of its own"
    if wide:
        spread = Counter(len({rank.node for rank in server.ranks}) for server in wide)
        nodes = ", ".join(f"{number} nodes" for number in sorted(spread))
        yield f"{_count(len(wide), 'server')} with more ranks than a node has GPUs, spread evenly over {nodes}"
    if len(wide) < len(plan.servers) and plan.allocation.nodes > 1:
        yield "no other server is split between nodes" if wide else "no server is split between nodes"
    busiest = max(plan.steps, key=lambda step: max(Counter(step.nodes).values()))
    if plan.allocation.tasks_per_node > 1:
        yield f"{plan.allocation.tasks_per_node} tasks per node, since {busiest.stem} has as many on one node"
    idle = plan.allocation.nodes - len({load.node for load in plan.gpus})
    if idle:
        yield f"{_count(idle, 'node')} without work: slurm.nodes asks for more than is needed"
    if not plan.allocation.gpus_per_node:
        yield f"engine {plan.engine} touches no GPU: the map shows where ranks would be, and no GPU is asked for"


def _shared(plan: Plan) -> bool:
    return any(len(load.servers) > 1 for load in plan.gpus)


def _some(nodes: list[int]) -> list[int]:
    return nodes if len(nodes) <= _MOST_NODES else [*nodes[:_HEAD_NODES], *nodes[-_TAIL_NODES:]]


def _spans(numbers: Sequence[int]) -> str:
    """Sorted numbers with runs drawn together: 0-3,6."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(_span(first, last) for first, last in spans)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns, the first row as the heading."""
    head, *body = rows
    indented = [head, *([f"  {row[0]}", *row[1:]] for row in body)]
    widths = [max(len(row[column]) for row in indented) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in indented]
