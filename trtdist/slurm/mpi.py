"""Which of srun's MPI types a step of ranks takes. Pure. Standard library, Python 3.9."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trtdist.errors import MissingError

__all__ = ["choose"]


def choose(types: Sequence[str]) -> str:
    """The type for Open MPI ranks, `pmix` or its newest version; MissingError when Slurm was built without PMIx.

    Open MPI 5, which engine images carry, knows PMIx alone: with pmi2 each rank would be a world of its own.
    """
    if "pmix" in types:
        return "pmix"
    versions = [match for match in map(re.compile(r"pmix_v(\d+)").fullmatch, types) if match is not None]
    if versions:
        return max(versions, key=lambda match: int(match[1]))[0]
    listed = ", ".join(types) or "nothing"
    raise MissingError(f"this Slurm has no PMIx, which MPI ranks need: srun --mpi=list shows {listed}")
