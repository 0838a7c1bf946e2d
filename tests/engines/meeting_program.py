"""One rank of an MPI world that meets once the test says so, and then says what it has found.

Usage: meeting_program.py FOLDER     in which `key.N` is the key of rank N, and `go` shows up
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import mpi4py

mpi4py.rc.initialize = False
mpi4py.rc.finalize = False

from mpi4py import MPI  # noqa: E402

from trtdist.engines.base import EngineError  # noqa: E402
from trtdist.engines.reference.meeting import meet, open_doors  # noqa: E402
from trtdist.rundir import write_atomic  # noqa: E402

__all__: list[str] = []


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def main(folder: Path) -> None:
    MPI.Init_thread(MPI.THREAD_SERIALIZED)
    rank = MPI.COMM_WORLD.rank
    mine = [int(door.local.rpartition(":")[2], 16) for door in open_doors()]
    # At which callers wait unseen, as at a port of MPI that it has not looked at.
    with socket.create_server(("", 0)) as unseen:
        write_atomic(folder / f"ports.{rank}", " ".join(map(str, (unseen.getsockname()[1], *mine))))
        while not (folder / "go").exists():
            time.sleep(0.01)
        meet(MPI, open_doors(), (folder / f"key.{rank}").read_bytes(), say)
        for size in (1, 1 << 18) * 25:
            MPI.COMM_WORLD.alltoall([bytes(size)] * MPI.COMM_WORLD.size)
        say(f"rank {rank} has met the others")
    MPI.Finalize()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except EngineError as error:
        say(str(error))
        # What is left of MPI must not be waited for.
        os._exit(3)
