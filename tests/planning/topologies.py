"""Topologies for tests, without files."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from trtdist.topology import Topology

__all__ = ["section", "topologies", "topology"]


def section(count: int = 1, tp: int = 1, pp: int = 1, cp: int = 1, fraction: float = 0.9) -> dict[str, Any]:
    """A server section as YAML gives it."""
    return {
        "num_instances": count,
        "tensor_parallel_size": tp,
        "pipeline_parallel_size": pp,
        "context_parallel_size": cp,
        "kv_cache_config": {"free_gpu_memory_fraction": fraction},
    }


def topology(**values: Any) -> Topology:
    """A topology; one monolithic server unless servers are given."""
    given = {"name": "test", "model": "some/model", **values}
    if not {"servers", "context_servers"} & set(given):
        given["servers"] = section()
    return Topology.model_validate(given)


_FRACTIONS = st.sampled_from([0.1, 0.2, 0.25, 0.3, 1 / 3, 0.5, 0.6, 0.9, 1.0])


@st.composite
def _sections(draw: st.DrawFn) -> dict[str, Any]:
    return section(
        count=draw(st.integers(1, 6)),
        tp=draw(st.sampled_from([1, 2, 3, 4, 8])),
        pp=draw(st.sampled_from([1, 1, 1, 2, 3])),
        cp=draw(st.sampled_from([1, 1, 1, 2])),
        fraction=draw(_FRACTIONS),
    )


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Monolithic and disaggregated deployments on nodes of many kinds; some do not fit."""
    roles = draw(st.sampled_from([("servers",), ("context_servers", "generation_servers")]))
    slurm = {
        "gpus_per_node": draw(st.sampled_from([1, 2, 3, 4, 8])),
        "nodes": draw(st.one_of(st.just("auto"), st.integers(1, 8))),
    }
    return topology(
        **{role: draw(_sections()) for role in roles},
        launch=draw(st.sampled_from(["mpi_world", "per_server"])),
        oversubscribe=draw(st.booleans()),
        slurm=slurm,
    )
