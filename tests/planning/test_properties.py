"""What holds for every plan."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.planning.topologies import section, topologies, topology
from trtdist.plan import Plan, from_json, to_json
from trtdist.planning import PlanError, Target, plan
from trtdist.topology import Topology

SOME = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
TARGETS = st.sampled_from(list(Target))


def planned(topology: Topology, target: Target) -> Plan:
    """The plan; examples that do not fit are passed over."""
    try:
        return plan(topology, target)
    except PlanError:
        assume(False)
        raise


@SOME
@given(topologies(), TARGETS)
def test_every_rank_is_placed_once_and_ranks_are_contiguous(topology: Topology, target: Target) -> None:
    found = planned(topology, target)
    ranks = [rank for server in found.servers for rank in server.ranks]
    assert [rank.world_rank for rank in ranks] == list(range(found.world_size))
    sizes = [(section.num_instances, section.world_size) for _, section in topology.sections]
    assert found.world_size == sum(count * size for count, size in sizes)
    assert [server.size for server in found.servers] == [size for count, size in sizes for _ in range(count)]
    for server in found.servers:
        assert [rank.rank for rank in server.ranks] == list(range(server.size))
        shape = (server.tensor_parallel_size, server.pipeline_parallel_size, server.context_parallel_size)
        assert server.size == math.prod(shape)


@SOME
@given(topologies(), TARGETS)
def test_the_lowest_rank_leads_and_context_servers_come_first(topology: Topology, target: Target) -> None:
    found = planned(topology, target)
    for server in found.servers:
        assert [rank.leader for rank in server.ranks] == [True] + [False] * (server.size - 1)
        assert server.leader.world_rank == min(rank.world_rank for rank in server.ranks)
    roles = [server.role for server in found.servers]
    assert roles == sorted(roles, key=["context", "generation", "monolithic"].index)


@SOME
@given(topologies(), TARGETS)
def test_no_gpu_is_over_full_unless_that_is_allowed(topology: Topology, target: Target) -> None:
    found = planned(topology, target)
    seats: dict[tuple[int, int], list[str]] = {}
    for server in found.servers:
        for rank in server.ranks:
            seats.setdefault((rank.node, rank.gpu), []).append(server.name)
    ledger = {(load.node, load.gpu): load for load in found.gpus}
    assert {seat: tuple(names) for seat, names in seats.items()} == {s: load.servers for s, load in ledger.items()}
    for seat, names in seats.items():
        assert len(set(names)) == len(names), "a server has two ranks on one GPU"
        total = math.fsum(found.server(name).memory_fraction for name in names)
        assert ledger[seat].fraction == pytest.approx(total, abs=1e-5)
        assert total <= 1.0 + 1e-5 or topology.oversubscribe


@SOME
@given(topologies(), TARGETS)
def test_it_stays_within_what_there_is(topology: Topology, target: Target) -> None:
    found = planned(topology, target)
    gpus = topology.slurm.gpus_per_node
    assert all(0 <= load.gpu < gpus and 0 <= load.node < found.allocation.nodes for load in found.gpus)
    fixed = 1 if target is Target.LOCAL else topology.slurm.nodes
    if fixed != "auto":
        assert found.allocation.nodes == fixed
        return
    assert all(len(load.servers) == 1 for load in found.gpus), "a GPU is shared although nodes can be had"
    assert {load.node for load in found.gpus} == set(range(found.allocation.nodes))


@SOME
@given(topologies(), TARGETS)
def test_a_server_is_on_one_node_or_evenly_on_several(topology: Topology, target: Target) -> None:
    found = planned(topology, target)
    for server in found.servers:
        per_node = Counter(rank.node for rank in server.ranks)
        assert len(per_node) == 1 or server.size > topology.slurm.gpus_per_node
        assert len(set(per_node.values())) == 1
        assert [rank.node for rank in server.ranks] == sorted(rank.node for rank in server.ranks)


@SOME
@given(st.integers(1, 10), st.integers(1, 10), st.integers(1, 8), st.integers(0, 3))
def test_ranks_get_own_gpus_while_there_are_free_ones(contexts: int, generations: int, gpus: int, spare: int) -> None:
    nodes = math.ceil((contexts + generations) / gpus) + spare
    found = plan(
        topology(
            context_servers=section(contexts, fraction=0.1),
            generation_servers=section(generations, fraction=0.1),
            slurm={"gpus_per_node": gpus, "nodes": nodes},
        ),
        Target.SLURM,
    )
    assert len(found.gpus) == found.world_size


@SOME
@given(topologies(), TARGETS)
def test_every_step_fits_the_allocation(topology: Topology, target: Target) -> None:
    found = planned(topology, target)
    for step in found.steps:
        assert step.tasks == len(step.nodes) > 0
        assert max(Counter(step.nodes).values()) <= found.allocation.tasks_per_node
        assert max(step.nodes) < found.allocation.nodes
    ranks = [name for step in found.steps for name in step.servers]
    assert ranks == [server.name for server in found.servers]
    assert [step.number for step in found.steps] == list(range(1, len(found.steps) + 1))


@SOME
@given(topologies(), TARGETS)
def test_the_same_topology_gives_the_same_bytes_and_they_can_be_read_back(topology: Topology, target: Target) -> None:
    found = planned(topology, target)
    again = plan(topology.model_copy(deep=True), target)
    assert to_json(found) == to_json(again)
    assert from_json(to_json(found)) == found


@SOME
@given(topologies(), TARGETS)
def test_a_refusal_names_changes_that_help(topology: Topology, target: Target) -> None:
    try:
        plan(topology, target)
    except PlanError as error:
        refusal = error
    else:
        return
    assert "\n" not in str(refusal)
    for remedy in refusal.remedies:
        changed = topology.model_dump()
        for path, value in remedy.changes:
            *parents, key = path.split(".")
            place = changed
            for parent in parents:
                place = place[parent]
            place[key] = value
        plan(Topology.model_validate(changed), target)
    if target is Target.SLURM:
        assert refusal.remedies[0].changes[0][0] == "slurm.nodes"
