"""A real, tiny transformer that needs no GPU: it shows that ranks, KV caches and routing are right.

Its answers are words without meaning, and it says in every log that it is the reference engine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtdist.engines.base import Engine, EngineConfig

__all__ = ["create"]


def create(config: EngineConfig) -> Engine:
    """One rank of a reference engine. Loads numpy; MPI starts with `start` or `follow`."""
    # Ranks are what computes in parallel. Read by the BLAS of numpy when it loads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from trtdist.engines.reference.engine import ReferenceEngine
    from trtdist.engines.reference.mpi import connect

    return ReferenceEngine(config, connect)
