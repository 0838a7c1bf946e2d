"""MPI as TensorRT-LLM uses it. tensorrt_llm/_utils.py: importing it starts MPI; `set_mpi_comm` replaces the world."""

from __future__ import annotations

import os
import time

from mpi4py import MPI

_comm = MPI.COMM_WORLD


def set_mpi_comm(new_comm):
    """Make another communicator the world of the engine; collective, since it is split by node."""
    global _comm
    _comm = new_comm
    new_comm.Split_type(MPI.COMM_TYPE_SHARED).Free()


def mpi_comm():
    """The engine's world."""
    return _comm


def mpi_rank() -> int:
    """This rank in the engine's world."""
    return _comm.Get_rank()


def mpi_world_size() -> int:
    """How many ranks the engine's world has."""
    return _comm.Get_size()


def global_mpi_rank() -> int:
    """This rank in MPI.COMM_WORLD."""
    return MPI.COMM_WORLD.Get_rank()


def global_mpi_size() -> int:
    """How many ranks MPI.COMM_WORLD has."""
    return MPI.COMM_WORLD.Get_size()


def mpi_barrier() -> None:
    """Wait for all ranks of the engine; the real one computes meanwhile, this one sleeps."""
    request = _comm.Ibarrier()
    while not request.Test():
        time.sleep(0.005)


def hang_as_a_spawned_worker_would() -> None:
    """A process that an MPI rank spawned, and that takes that rank's identity for its own, hangs in MPI_Init.

    Documentation, "Hang issue on Slurm node" (pull request 2316); ai-dynamo/dynamo#808, #992.
    """
    names = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
    while any(name in os.environ for name in names):
        time.sleep(1)
