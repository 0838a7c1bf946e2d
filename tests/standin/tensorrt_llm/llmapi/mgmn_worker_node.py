"""tensorrt_llm/llmapi/mgmn_worker_node.py: a rank that does not lead, until the leader's executor is shut down."""

from __future__ import annotations

from mpi4py.futures import MPICommExecutor

from tensorrt_llm._utils import mpi_comm


def main() -> None:
    """Wait for tasks, without a limit."""
    with MPICommExecutor(mpi_comm()) as executor:
        if executor is not None:
            raise RuntimeError("rank0 should not be a worker node")


if __name__ == "__main__":
    main()
