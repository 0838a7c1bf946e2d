"""Plans that a person would draw."""

from __future__ import annotations

from typing import Any

import pytest

from tests.planning.topologies import section, topology
from trtdist.plan import Allocation, Plan
from trtdist.planning import PlanError, Target, plan

LOCAL, SLURM = Target.LOCAL, Target.SLURM


def where(found: Plan) -> dict[str, list[tuple[int, int]]]:
    return {server.name: [(rank.node, rank.gpu) for rank in server.ranks] for server in found.servers}


def test_two_tp2_of_each_role_fill_a_node() -> None:
    found = plan(topology(context_servers=section(2, 2), generation_servers=section(2, 2)), SLURM)
    assert where(found) == {
        "ctx.0": [(0, 0), (0, 1)],
        "ctx.1": [(0, 2), (0, 3)],
        "gen.0": [(0, 4), (0, 5)],
        "gen.1": [(0, 6), (0, 7)],
    }
    assert found.world_size == 8
    assert found.allocation == Allocation(nodes=1, gpus_per_node=8, tasks_per_node=8, cpus_per_task=8, mem=0)


def test_steps_of_one_world() -> None:
    found = plan(topology(context_servers=section(1, 2), generation_servers=section()), LOCAL)
    steps = [(step.stem, step.kind, step.tier, step.tasks, step.servers) for step in found.steps]
    assert steps == [
        ("01-nats", "service", 2, 1, ()),
        ("02-etcd", "service", 2, 1, ()),
        ("03-workers", "workers", 1, 3, ("ctx.0", "gen.0")),
        ("04-router", "router", 0, 1, ()),
        ("05-front", "front", 0, 1, ()),
        ("06-canary", "canary", 0, 1, ()),
    ]


def test_steps_of_a_world_for_each_server() -> None:
    found = plan(topology(launch="per_server", servers=section(2)), LOCAL)
    assert [step.stem for step in found.steps] == [
        "01-nats", "02-etcd", "03-srv.0", "04-srv.1", "05-router", "06-front", "07-canary",
    ]  # fmt: skip


def test_services_that_run_already_have_no_step() -> None:
    services = {"nats": {"external": "nats://host:4222"}, "etcd": {}}
    found = plan(topology(services=services, canary={"interval": 30.0}), LOCAL)
    assert [step.stem for step in found.steps] == ["01-etcd", "02-workers", "03-router", "04-front", "05-canary"]
    assert found.canary.interval == 30


@pytest.mark.parametrize(("written", "megabytes"), [(0, 0), (4096, 4096), ("64G", 65536), ("1T", 1 << 20), ("1k", 1)])
def test_memory_in_megabytes(written: Any, megabytes: int) -> None:
    assert plan(topology(slurm={"mem": written}), SLURM).allocation.mem == megabytes


def test_only_the_gpus_that_are_used_are_asked_for() -> None:
    assert plan(topology(servers=section(1, 4)), SLURM).allocation.gpus_per_node == 4
    assert plan(topology(servers=section(1, 4), engine="reference"), SLURM).allocation.gpus_per_node == 0


def test_engine_arguments_reach_every_server() -> None:
    found = plan(topology(servers={**section(2, fraction=0.5), "max_batch_size": 4}), LOCAL)
    assert [server.engine_args["max_batch_size"] for server in found.servers] == [4, 4]
    assert found.server("srv.1").memory_fraction == 0.5


REFUSED: list[tuple[dict[str, Any], Target, str]] = [
    (
        {"servers": section(12), "slurm": {"nodes": 1}},
        SLURM,
        (
            "12 ranks, each taking 0.9 of the memory of a GPU, do not fit on 1 node with 8 GPUs (slurm.gpus_per_node): "
            "give --set slurm.nodes=2, or --set servers.kv_cache_config.free_gpu_memory_fraction=0.5, or "
            "--set servers.num_instances=8"
        ),
    ),
    (
        {"servers": section(12)},
        LOCAL,
        (
            "12 ranks, each taking 0.9 of the memory of a GPU, do not fit on this machine with 8 planned GPUs "
            "(slurm.gpus_per_node): give --set servers.kv_cache_config.free_gpu_memory_fraction=0.5, or "
            "--set servers.num_instances=8, or --set oversubscribe=true"
        ),
    ),
    (
        {"servers": section(1, 16)},
        LOCAL,
        (
            "the 16 ranks of one server (servers) need a GPU each and do not fit on this machine with 8 planned GPUs "
            "(slurm.gpus_per_node): give --set servers.tensor_parallel_size=8"
        ),
    ),
    (
        {"servers": section(1, 11), "slurm": {"nodes": 2}},
        SLURM,
        (
            "the 11 ranks of one server (servers) cannot be spread evenly over 2 nodes with 8 GPUs each "
            "(slurm.gpus_per_node): give --set slurm.nodes=11, or --set servers.tensor_parallel_size=1"
        ),
    ),
    (
        {"context_servers": section(1, 16), "generation_servers": section(1, 16)},
        LOCAL,
        (
            "the 16 ranks of one server (context_servers) need a GPU each and do not fit on this machine with 8 "
            "planned GPUs (slurm.gpus_per_node): give --set context_servers.tensor_parallel_size=4 "
            "--set generation_servers.tensor_parallel_size=4"
        ),
    ),
    (
        {"servers": section(1_000_000, 1_000_000)},
        SLURM,
        "1,000,000,000,000 ranks are more than a plan can hold (100,000): lower num_instances or the parallel sizes",
    ),
    (
        {"slurm": {"gpus_per_node": 100_000}},
        SLURM,
        "slurm.gpus_per_node: 100,000 is more than a node has: write 256 or fewer",
    ),
    (
        {"servers": section(2, fraction=0.4), "router": {"weights": {"srv.1": 2, "srv.2": 1}}},
        LOCAL,
        "router.weights names srv.2, and there is no such server: name one of srv.0, srv.1",
    ),
]


@pytest.mark.parametrize(("values", "target", "message"), REFUSED)
def test_refusals(values: dict[str, Any], target: Target, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(topology(**values), target)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2
