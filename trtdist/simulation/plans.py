"""Plans of simulated lives: small ones of any shape, and large ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from trtdist.plan import Allocation, Canary, Plan, Rank, Server, Step

__all__ = ["SERVERS_PER_NODE", "large", "lasting", "small"]

SERVERS_PER_NODE = 4


def small(random: Random) -> Plan:
    """A deployment of up to six servers on up to four nodes, with or without HTTP front end and own services."""
    sizes = [random.choice((1, 1, 2, 4)) for _ in range(random.randint(1, 6))]
    nodes = random.choice((1, 1, 2, 4))
    launch = random.choice(("mpi_world", "per_server"))
    services = random.choice((("nats", "etcd"), ("nats", "etcd"), ("nats", "etcd"), ("etcd",), ()))
    interval = random.choice((0.0, 0.0, 30.0))
    return _plan(launch, _servers(sizes, nodes), nodes, services, random.random() < 0.5, interval)


def large(nodes: int) -> Plan:
    """Servers of one rank each, four on every node, each a step of its own."""
    servers = _servers([1] * (SERVERS_PER_NODE * nodes), nodes)
    return _plan("per_server", servers, nodes, ("nats", "etcd"), True, 0.0)


def lasting(random: Random, plan: Plan) -> Plan:
    """The same deployment with steps that are started again, servers that may die, and spare nodes, as it comes."""
    kinds = {step.kind if step.kind != "service" else step.name: random.choice((0, 1, 1, 2, 3)) for step in plan.steps}
    kinds.update(canary=kinds["workers"], front=kinds["router"])
    backoff, critical = random.choice((0.5, 2.0, 5.0)), random.random() < 0.6
    steps = [
        replace(
            step,
            restarts=kinds[step.name if step.kind == "service" else step.kind],
            backoff=backoff,
            critical=critical or step.kind != "workers",
        )
        for step in plan.steps
    ]
    spares = random.choice((0, 0, 1, 2)) if plan.allocation.nodes > 1 else 0
    allocation = replace(plan.allocation, nodes=plan.allocation.nodes + spares)
    return replace(plan, steps=tuple(steps), allocation=allocation)


def _servers(sizes: Sequence[int], nodes: int) -> tuple[Server, ...]:
    servers: list[Server] = []
    world = 0
    for index, size in enumerate(sizes):
        node = index * nodes // len(sizes)
        ranks = tuple(Rank(world + rank, rank, (node + rank // 2) % nodes, rank % 2, rank == 0) for rank in range(size))
        context = 2 * index < len(sizes)
        role, number = ("context", index) if context else ("generation", index - (len(sizes) + 1) // 2)
        name = f"{'ctx' if context else 'gen'}.{number}"
        servers.append(Server(name, role, number, size, 1, 1, 0.1, ranks))
        world += size
    return tuple(servers)


def _plan(
    launch: str, servers: tuple[Server, ...], nodes: int, services: tuple[str, ...], front: bool, interval: float
) -> Plan:
    wanted: list[tuple[str, str, int, tuple[Server, ...]]] = [(name, "service", 2, ()) for name in services]
    if launch == "mpi_world":
        wanted.append(("workers", "workers", 1, servers))
    else:
        wanted += [(server.name, "workers", 1, (server,)) for server in servers]
    wanted += [(name, name, 0, ()) for name in ("router", *(("front",) if front else ()), "canary")]
    steps = tuple(_step(number, *each) for number, each in enumerate(wanted, 1))
    world = sum(server.size for server in servers)
    allocation = Allocation(nodes, 2, world, 1, 0)
    placed = (allocation, servers, steps, ())
    return Plan(
        "simulated", "m", "reference", "trtdist", launch, "round_robin", world, *placed, Canary("", 4, interval, 60.0)
    )


def _step(number: int, name: str, kind: str, tier: int, servers: tuple[Server, ...]) -> Step:
    nodes = tuple(rank.node for server in servers for rank in server.ranks) or (0,)
    return Step(number, name, kind, tier, len(nodes), nodes, tuple(server.name for server in servers))
