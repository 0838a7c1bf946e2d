"""Where a rank of the plan stands in its MPI world. Standard library, Python 3.9."""

from __future__ import annotations

from trtdist.engines.base import EngineConfig, EngineError

__all__ = ["check_place", "color", "place"]


def place(config: EngineConfig) -> tuple[int, int]:
    """The rank and the size of the MPI world that the launch lines give to this rank of the plan.

    In an `mpi_world` all servers share one world, by `per_server` each server has its own.
    """
    plan, server = config.plan, config.server
    if plan.launch == "mpi_world":
        return server.ranks[config.rank].world_rank, plan.world_size
    return config.rank, server.size


def color(config: EngineConfig) -> int:
    """What the ranks of one server have in common when their world is split."""
    return [each.name for each in config.plan.servers].index(config.server.name)


def check_place(config: EngineConfig, rank: int, size: int) -> None:
    """EngineError unless MPI says of this process what the plan says."""
    if (rank, size) != place(config):
        expected, ranks = place(config)
        raise EngineError(
            f"{config.server.name} rank {config.rank} is MPI rank {rank} of {size}, and the plan says {expected} of"
            f" {ranks}: start the ranks with the launch line under scripts/"
        )
