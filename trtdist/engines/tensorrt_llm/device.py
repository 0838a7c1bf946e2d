"""Which GPU a rank takes, and what of its environment would mislead it. Runs before mpi4py is imported.

TensorRT-LLM's workers take device `rank in MPI.COMM_WORLD % torch.cuda.device_count()`
(`tensorrt_llm/executor/base_worker.py`, `_get_comm_ranks_device_id`; before 1.1 `executor/worker.py`), and
`disaggregated_mpi_worker` sets the same one before it imports mpi4py (`tensorrt_llm/commands/serve.py`,
`set_cuda_device`), since an MPI that knows CUDA takes the current device when it starts. The task script shows each
rank the GPUs of its server on its node, in an order for which that rule gives the plan's GPU.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import MutableMapping
from typing import Any

from trtdist.engines.base import EngineConfig, EngineError
from trtdist.engines.world import place

__all__ = ["choose_device", "leave_mpi", "say"]

# Which launcher started a process, as `split_mpi_env` (tensorrt_llm/llmapi/mpi_session.py) lists it, less what users
# set: UCX_ and KMP_.
_IDENTITIES = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "MPI_", "I_MPI_", "HYDRA_", "MPICH_", "MV2_", "CRAY_")
_KEPT = ("OMPI_MCA_btl", "OMPI_MCA_pml")


def say(sentence: str) -> None:
    """One line of the rank's log, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} tensorrt_llm engine: {sentence}", file=sys.stderr, flush=True)


def choose_device(config: EngineConfig) -> int:
    """Make a GPU the current one; its number among those that this rank sees. EngineError when they are too few."""
    try:
        cuda: Any = importlib.import_module("torch").cuda
    except ImportError as error:
        raise EngineError(f"{sys.executable} has no PyTorch, which TensorRT-LLM needs: {error}") from error
    name, shown = f"{config.server.name}.{config.rank}", os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
    ranks = config.server.ranks
    beside = sum(rank.node == ranks[config.rank].node for rank in ranks)
    count: int = cuda.device_count()
    if count < beside:
        raise EngineError(
            f"{name} needs {beside} GPUs on its node and PyTorch sees {count} (CUDA_VISIBLE_DEVICES is {shown}):"
            " nvidia-smi on that node shows which are there"
        )
    device = place(config)[0] % count
    cuda.set_device(device)
    say(f"{name} takes device {device} of the {count} it sees (CUDA_VISIBLE_DEVICES is {shown})")
    return device


def leave_mpi(environ: MutableMapping[str, str]) -> None:
    """Forget the launcher, for a world of one rank: its engine spawns a process by itself.

    That process would take the identity of this rank for its own and hang in MPI_Init ("Hang issue on Slurm node" of
    TensorRT-LLM's documentation; ai-dynamo/dynamo#992 unsets the same variables).
    """
    for name in list(environ):
        if name.startswith(_IDENTITIES) and not name.startswith(_KEPT):
            del environ[name]
