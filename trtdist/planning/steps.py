"""The steps of a deployment, in the order of their start, and the allocation in which every one of them fits."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from trtdist.plan import Allocation, Server, Step
from trtdist.planning.runtimes import serving_runtime
from trtdist.topology.model import Topology

__all__ = ["allocation", "steps"]

SERVICES_TIER, WORKERS_TIER, FRONT_TIER = 2, 1, 0
_HEAD = (0,)
# CPUs of a rank when nothing is said: an engine needs several, the reference engine one.
_CPUS = {"tensorrt_llm": 8, "reference": 1}
_MEGABYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}


def steps(topology: Topology, servers: Sequence[Server]) -> tuple[Step, ...]:
    """The steps, numbered from 1: services, workers, router, HTTP front end, canary."""
    return tuple(
        Step(number, name, kind, tier, len(nodes), nodes, members)
        for number, (name, kind, tier, nodes, members) in enumerate(_unnumbered(topology, servers), 1)
    )


_Unnumbered = tuple[str, str, int, tuple[int, ...], tuple[str, ...]]


def _unnumbered(topology: Topology, servers: Sequence[Server]) -> Iterator[_Unnumbered]:
    runtime, external = serving_runtime(topology), topology.services.external
    for name in runtime.services(topology):
        if name not in external:
            yield name, "service", SERVICES_TIER, _HEAD, ()
    groups = [("workers", servers)] if topology.launch == "mpi_world" else [(each.name, [each]) for each in servers]
    for name, members in groups:
        nodes = tuple(rank.node for server in members for rank in server.ranks)
        yield name, "workers", WORKERS_TIER, nodes, tuple(server.name for server in members)
    for kind in runtime.fronts(topology):
        yield kind, kind, FRONT_TIER, _HEAD, ()
    yield "canary", "canary", FRONT_TIER, _HEAD, ()


def allocation(topology: Topology, servers: Sequence[Server], planned: Sequence[Step], nodes: int | None) -> Allocation:
    """What to ask for: as many tasks per node as the largest step has on one, GPUs only for engines that use them.

    `nodes` is their number where it is fixed, None where those that are used will do.
    """
    slurm = topology.slurm
    seats = [(rank.node, rank.gpu) for server in servers for rank in server.ranks]
    gpus = 0 if topology.engine == "reference" else 1 + max(gpu for _, gpu in seats)
    return Allocation(
        nodes=nodes or 1 + max(node for node, _ in seats),
        gpus_per_node=gpus,
        tasks_per_node=max(max(Counter(step.nodes).values()) for step in planned),
        cpus_per_task=slurm.cpus_per_task or _CPUS[topology.engine],
        mem=_megabytes(slurm.mem),
    )


def _megabytes(size: int | str) -> int:
    """Slurm's memory sizes: megabytes, or with K, M, G or T."""
    if isinstance(size, int):
        return size
    number, unit = re.fullmatch(r"(\d+)([KMGT]?)", size.upper()).groups()  # type: ignore[union-attr]
    return math.ceil(int(number) * _MEGABYTES[unit or "M"])
