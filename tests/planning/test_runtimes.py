"""Which steps a deployment has by its runtime."""

from __future__ import annotations

from typing import Any

import pytest

from tests.planning.topologies import section, topology
from trtdist.planning import PlanError, Target, plan

SPLIT = {"context_servers": section(1, 2), "generation_servers": section(2)}
EXTERNAL = {"nats": {"external": "nats://broker:4222"}, "etcd": {"external": "http://keeper:2379"}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"runtime": "trtllm-serve"}, ["srv.0", "canary"]),
        ({"runtime": "trtllm-serve", **SPLIT}, ["ctx.0", "gen.0", "gen.1", "router", "canary"]),
        (
            {"runtime": "trtllm-serve", **SPLIT, "router": {"discovery": "etcd"}},
            ["etcd", "ctx.0", "gen.0", "gen.1", "router", "canary"],
        ),
        ({"runtime": "trtllm-serve", "router": {"discovery": "etcd"}}, ["srv.0", "canary"]),
        ({"runtime": "dynamo", "servers": section(2)}, ["nats", "etcd", "srv.0", "srv.1", "front", "canary"]),
        ({"runtime": "dynamo", **SPLIT, "services": EXTERNAL}, ["ctx.0", "gen.0", "gen.1", "front", "canary"]),
        ({"runtime": "trtdist"}, ["nats", "etcd", "srv.0", "router", "front", "canary"]),
    ],
)
def test_steps(given: dict[str, Any], expected: list[str]) -> None:
    found = plan(topology(launch="per_server", **given), Target.SLURM)
    assert [step.name for step in found.steps] == expected
    assert found.over_http == (given["runtime"] != "trtdist")


def test_programs_of_others_need_http() -> None:
    with pytest.raises(PlanError, match="runtime dynamo answers over HTTP alone"):
        plan(topology(runtime="dynamo", launch="per_server", router={"http": None}), Target.LOCAL)
