"""From a topology to a plan."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from trtdist.plan import Canary, GpuLoad, Http, Plan, Rank, Server
from trtdist.planning.packing import FULL, Demand, Seat, nodes_spanned
from trtdist.planning.placement import Room, place
from trtdist.planning.refusal import PlanError, Section, remedies
from trtdist.planning.runtimes import serving_runtime
from trtdist.planning.steps import allocation, steps
from trtdist.topology.model import ServerSection, Topology

__all__ = ["PREFIXES", "Target", "plan"]

PREFIXES = {"context": "ctx", "generation": "gen", "monolithic": "srv"}
_KEYS = {"context": "context_servers", "generation": "generation_servers", "monolithic": "servers"}
# Beyond these there is a slip of the pen and not a deployment.
_MOST_RANKS = 100_000
_MOST_GPUS = 256


class Target(Enum):
    """Where a deployment is to run: on this machine alone, or in an allocation of Slurm."""

    LOCAL = "local"
    SLURM = "slurm"


def plan(topology: Topology, target: Target) -> Plan:
    """The whole deployment, placed. PlanError names the smallest change that would make it possible.

    On this machine there is one node with `slurm.gpus_per_node` GPUs. Through Slurm, `nodes: auto` takes the fewest
    nodes on which each rank has a GPU of its own.
    """
    sections = [_section(role, section) for role, section in topology.sections]
    room = _room(topology, target)
    _refuse_slips(topology, room)
    seats = place([section.demand for section in sections], room)
    if seats is None:
        raise PlanError(_problem(sections, room, target), remedies(sections, room, target is Target.SLURM))
    servers = _servers(topology, seats)
    _refuse_weights(topology, [server.name for server in servers])
    planned = steps(topology, servers)
    return Plan(
        name=topology.name,
        model=topology.model,
        engine=topology.engine,
        runtime=topology.runtime,
        launch=topology.launch,
        router_policy=topology.router.policy,
        router_weights=topology.router.weights,
        router_direct_below=topology.router.direct_below,
        world_size=topology.world_size,
        allocation=allocation(topology, servers, planned, room.nodes, _spares(topology, target)),
        servers=servers,
        steps=planned,
        gpus=_loads(servers),
        canary=Canary(**topology.canary.model_dump()),
        http=_http(topology),
        stall=topology.timeouts.stall,
    )


def _spares(topology: Topology, target: Target) -> int:
    return topology.slurm.spares if target is Target.SLURM else 0


def _refuse_weights(topology: Topology, names: Sequence[str]) -> None:
    for name in topology.router.weights:
        if name not in names:
            raise PlanError(f"router.weights names {name}, and there is no such server: name one of {', '.join(names)}")


def _http(topology: Topology) -> Http | None:
    http = topology.router.http
    if http is None and not serving_runtime(topology).ours:
        raise PlanError(f"runtime {topology.runtime} answers over HTTP alone: leave out `router: {{http: null}}`")
    if http is None:
        return None
    return Http(http.host, 0 if http.port == "auto" else http.port, http.processes, http.max_requests)


def _section(role: str, section: ServerSection) -> Section:
    share = round(section.memory_fraction * FULL)
    parallel = {
        kind: getattr(section, kind)
        for kind in ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
    }
    return Section(_KEYS[role], Demand(section.num_instances, section.world_size, share), parallel)


def _room(topology: Topology, target: Target) -> Room:
    slurm = topology.slurm
    nodes = None if slurm.nodes == "auto" else slurm.nodes
    return Room(1 if target is Target.LOCAL else nodes, slurm.gpus_per_node, topology.oversubscribe)


def _refuse_slips(topology: Topology, room: Room) -> None:
    if topology.world_size > _MOST_RANKS:
        raise PlanError(
            f"{topology.world_size:,} ranks are more than a plan can hold ({_MOST_RANKS:,}): lower num_instances or "
            "the parallel sizes"
        )
    if room.gpus > _MOST_GPUS:
        raise PlanError(f"slurm.gpus_per_node: {room.gpus:,} is more than a node has: write {_MOST_GPUS} or fewer")


def _problem(sections: Sequence[Section], room: Room, target: Target) -> str:
    """What stands in the way, up to the remedies."""
    assert room.nodes is not None
    where = "this machine" if target is Target.LOCAL else _count(room.nodes, "node")
    # On this machine it is a number of the plan, as the engine may need no GPU at all.
    what = "planned GPU" if target is Target.LOCAL else "GPU"
    offer = f"{where} with {_count(room.gpus, what)}{' each' if room.nodes > 1 else ''} (slurm.gpus_per_node)"
    for section in sections:
        size = section.demand.size
        if size > room.nodes * room.gpus:
            return f"the {size} ranks of one server ({section.key}) need a GPU each and do not fit on {offer}"
        if nodes_spanned(size, room.gpus) > room.nodes:
            return f"the {size} ranks of one server ({section.key}) cannot be spread evenly over {offer}"
    ranks = sum(section.demand.count * section.demand.size for section in sections)
    shares = " or ".join(dict.fromkeys(f"{section.demand.share / FULL:g}" for section in sections))
    return f"{_count(ranks, 'rank')}, each taking {shares} of the memory of a GPU, do not fit on {offer}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _servers(topology: Topology, seats: Sequence[Sequence[Seat]]) -> tuple[Server, ...]:
    servers: list[Server] = []
    world_rank = 0
    for role, section in topology.sections:
        arguments = section.engine_args
        for index in range(section.num_instances):
            mine = seats[len(servers)]
            ranks = tuple(
                Rank(world_rank + rank, rank, node, gpu, leader=rank == 0) for rank, (node, gpu) in enumerate(mine)
            )
            world_rank += len(ranks)
            servers.append(
                Server(
                    name=f"{PREFIXES[role]}.{index}",
                    role=role,
                    index=index,
                    tensor_parallel_size=section.tensor_parallel_size,
                    pipeline_parallel_size=section.pipeline_parallel_size,
                    context_parallel_size=section.context_parallel_size,
                    memory_fraction=section.memory_fraction,
                    ranks=ranks,
                    engine_args=arguments,
                )
            )
    return tuple(servers)


def _loads(servers: Sequence[Server]) -> tuple[GpuLoad, ...]:
    """What is placed on each GPU that is used, by node and GPU."""
    found: dict[Seat, list[Server]] = {}
    for server in servers:
        for rank in server.ranks:
            found.setdefault((rank.node, rank.gpu), []).append(server)
    return tuple(
        GpuLoad(node, gpu, round(sum(server.memory_fraction for server in here), 6), tuple(s.name for s in here))
        for (node, gpu), here in sorted(found.items())
    )
