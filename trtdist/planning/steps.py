"""The steps of a deployment, in the order of their start, and the allocation in which every one of them fits."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from trtdist.plan import Allocation, Server, Step
from trtdist.planning.refusal import PlanError
from trtdist.planning.runtimes import serving_runtime
from trtdist.topology.model import RestartSection, Topology

__all__ = ["allocation", "steps"]

SERVICES_TIER, WORKERS_TIER, FRONT_TIER = 2, 1, 0
_HEAD = (0,)
# CPUs of a rank when nothing is said: an engine needs several, the reference engine one.
_CPUS = {"tensorrt_llm": 8, "reference": 1}
_MEGABYTES = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}


def steps(topology: Topology, servers: Sequence[Server]) -> tuple[Step, ...]:
    """The steps, numbered from 1: services, workers, router, HTTP front end, canary."""
    _refuse_parts_of_a_world(topology)
    found = [
        Step(number, name, kind, tier, len(nodes), nodes, members, **_recovery(topology, name, servers, members))
        for number, (name, kind, tier, nodes, members) in enumerate(_unnumbered(topology, servers), 1)
    ]
    return tuple(found)


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


def _refuse_parts_of_a_world(topology: Topology) -> None:
    """One MPI world lives and dies as one."""
    if topology.launch != "mpi_world":
        return
    if len({section.restart.model_dump_json() for _, section in topology.sections}) > 1:
        raise PlanError(
            "`launch: mpi_world` starts all servers again together: give context_servers and generation_servers the "
            "same `restart`, or write `launch: per_server`"
        )
    if not all(section.critical for _, section in topology.sections):
        raise PlanError("`critical: false` needs `launch: per_server`: in one MPI world no server outlives another")


def _recovery(topology: Topology, name: str, servers: Sequence[Server], members: Sequence[str]) -> dict[str, Any]:
    """What is done about a step that ends unasked. Whoever proves restarted servers is restarted as they are."""
    sections = dict(topology.sections)
    if members:
        role = next(server.role for server in servers if server.name == members[0])
        return {**_restart(sections[role].restart), "critical": sections[role].critical}
    if name == "canary":
        found = [_restart(section.restart) for section in sections.values()]
        return max(found, key=lambda each: each.get("restarts", 0))
    own = {"nats": topology.services.nats.restart, "etcd": topology.services.etcd.restart}
    return _restart(own.get(name, topology.router.restart))


def _restart(section: RestartSection) -> dict[str, Any]:
    return {"restarts": section.max, "backoff": section.backoff} if section.policy == "on-failure" else {}


def allocation(
    topology: Topology, servers: Sequence[Server], planned: Sequence[Step], nodes: int | None, spares: int
) -> Allocation:
    """What to ask for: as many tasks per node as the largest step has on one, GPUs only for engines that use them.

    `nodes` is their number where it is fixed, None where those that are used will do; `spares` come on top.
    """
    slurm = topology.slurm
    seats = [(rank.node, rank.gpu) for server in servers for rank in server.ranks]
    gpus = 0 if topology.engine == "reference" else 1 + max(gpu for _, gpu in seats)
    return Allocation(
        nodes=(nodes or 1 + max(node for node, _ in seats)) + spares,
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
