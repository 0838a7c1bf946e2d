"""Keeps strangers away from an `mpiexec` on this machine, whose ports ask nobody who he is. Linux. Standard library,
Python 3.9.

Open MPI's launcher takes orders at a port on all interfaces, which it needs for other nodes alone and cannot be told to
leave out, and its ranks come to one on loopback. Both belong to a process of this user, so they can be made deaf from
here.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Callable

from trtdist.process import ProcessId
from trtdist.sockets import ESTABLISHED, LISTENING, TcpSocket, held, make_deaf, tcp_sockets

__all__ = ["Doors"]

_PIDFD_GETFD = 438  # on every architecture, from Linux 5.6 on
_LOOPBACK = ("0100007F", "00000000000000000000000001000000")
# A rank that has not called MPI by then is not waited for.
_PATIENCE = 600.0
_LIBC = ctypes.CDLL(None, use_errno=True)


class Doors:
    """Those of the first process of a step with so many ranks; `say` takes a sentence when they stay open."""

    def __init__(self, process: ProcessId, ranks: int, say: Callable[[str], None]) -> None:
        self._process = process
        self._ranks = ranks
        self._say = say
        self._shut: set[str] = set()
        self._until = time.monotonic() + _PATIENCE

    def look(self) -> bool:
        """Shut what nobody has to come through any more; says whether that is all."""
        try:
            return self._look() or time.monotonic() > self._until
        except OSError as error:
            if self._process.alive():
                self._say(
                    f"the ports of mpiexec cannot be closed for other users ({error.strerror}): see docs/security.md"
                )
            return True

    def _look(self) -> bool:
        mine = held(self._process.pid)
        if not mine:
            # The table of all sockets is dear to read while a launcher has not begun.
            return False
        sockets = list(tcp_sockets())
        for door in [each for each in sockets if each.state == LISTENING and each.inode in mine]:
            inner = door.local.partition(":")[0] in _LOOPBACK
            if door.inode in self._shut or (inner and _visitors(door, sockets) < self._ranks):
                continue
            _shut(self._process, mine[door.inode])
            self._shut.add(door.inode)
            if inner:
                return True
        return False


def _visitors(door: TcpSocket, sockets: list[TcpSocket]) -> int:
    """How many connections of this user end there."""
    return sum(each.remote == door.local and each.state == ESTABLISHED and each.uid == os.getuid() for each in sockets)


def _shut(process: ProcessId, descriptor: int) -> None:
    """Make a listening socket of a process deaf; OSError when that is not possible."""
    handle = os.pidfd_open(process.pid)
    try:
        if not process.alive():
            return
        copy = _LIBC.syscall(_PIDFD_GETFD, handle, descriptor, 0)
        if copy < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(handle)
    with socket.socket(fileno=copy) as door:
        make_deaf(door)
