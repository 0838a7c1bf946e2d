"""One rank of a greeting over MPI, which says how many ranks it found and where: run by whatever Python is there.

Sent to it as text, together with what it imports. Prints a line of JSON before MPI is started, which may never return,
and one with what came of it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from trtdist.containers.image_probe import pmix_version

__all__ = ["main"]

# Longer than any host name of Linux, which has up to 64 bytes.
_NAME = 128


def main(given: Mapping[str, Any]) -> None:
    """Both lines; the second has `problem` when there is no MPI to greet with."""
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError, OSError) as error:
        _tell({"problem": str(error) or type(error).__name__})
        return
    library = str(MPI.Get_library_version()).split(",")[0].rstrip("\0").strip()
    # The server says its release to its clients.
    what = {"library": library, "server_pmix": os.environ.get("PMIX_VERSION", ""), "pmix": _pmix_version()}
    _tell({"at": f"starting {library}", **what})
    MPI.Init()
    world = MPI.COMM_WORLD
    _tell({"problem": "", "rank": world.Get_rank(), "size": world.Get_size(), "nodes": _nodes(world), **what})
    MPI.Finalize()


def _pmix_version() -> str:
    """That of the library in this system, found out by a child: MPI would take one that this process has loaded for
    its own of the same name."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, pmix_version().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as said:
        version = said.read()
    os.waitpid(child, 0)
    return version


def _nodes(world: Any) -> list[str]:
    """The node of every rank, in order."""
    names = bytearray(_NAME * world.Get_size())
    world.Allgather(_node().encode()[:_NAME].ljust(_NAME, b"\0"), names)
    return [names[at : at + _NAME].rstrip(b"\0").decode("utf-8", "replace") for at in range(0, len(names), _NAME)]


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def _tell(found: Mapping[str, Any]) -> None:
    # In one piece, since ranks share a pipe.
    sys.stdout.write(json.dumps({"node": _node(), **found}) + "\n")
    sys.stdout.flush()
