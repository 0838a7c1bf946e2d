"""One rank of a greeting over MPI, which says how many ranks it found and where: run by whatever Python is there.

Prints a line of JSON, with `problem` when there is no MPI to greet with. Imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

__all__ = ["greet"]

# Longer than any host name of Linux, which has up to 64 bytes.
_NAME = 128


def greet() -> dict[str, Any]:
    """What this rank finds; it does not return when MPI cannot be started."""
    node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError, OSError) as error:
        return {"node": node, "problem": str(error) or type(error).__name__}
    world = MPI.COMM_WORLD
    library = str(MPI.Get_library_version()).split(",")[0].rstrip("\0").strip()
    return {
        "node": node,
        "problem": "",
        "rank": world.Get_rank(),
        "size": world.Get_size(),
        "nodes": _nodes(world, node),
        "library": library,
    }


def _nodes(world: Any, node: str) -> list[str]:
    """The node of every rank, in order."""
    names = bytearray(_NAME * world.Get_size())
    world.Allgather(node.encode()[:_NAME].ljust(_NAME, b"\0"), names)
    return [names[at : at + _NAME].rstrip(b"\0").decode("utf-8", "replace") for at in range(0, len(names), _NAME)]


if __name__ == "__main__":
    # In one piece, since ranks share a pipe.
    sys.stdout.write(json.dumps(greet()) + "\n")
    sys.stdout.flush()
