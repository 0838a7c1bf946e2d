"""Keeps strangers away from an `mpiexec` on this machine, whose ports ask nobody who he is. Linux. Standard library,
Python 3.9.

Open MPI's launcher takes orders at a port on all interfaces, which it needs for other nodes alone and cannot be told to
leave out, and its ranks come to one on loopback. Both belong to a process of this user, so they can be made deaf from
here: a filter that drops every packet keeps new connections from being made and leaves alone those that are there.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trtdist.process import ProcessId

__all__ = ["Doors"]

_PIDFD_GETFD = 438  # on every architecture, from Linux 5.6 on
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_RETURN = 0x06  # BPF_RET | BPF_K: how many bytes of a packet to keep, none
_LISTENING, _ESTABLISHED = "0A", "01"  # proc_net_tcp(5)
_LOOPBACK = ("0100007F", "00000000000000000000000001000000")
# A rank that has not called MPI by then is not waited for.
_PATIENCE = 600.0
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class _Socket:
    local: str
    remote: str
    state: str
    uid: int
    inode: str


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
        held = _held(self._process.pid)
        if not held:
            # The table of all sockets is dear to read while a launcher has not begun.
            return False
        sockets = list(_sockets())
        for door in [each for each in sockets if each.state == _LISTENING and each.inode in held]:
            inner = door.local.partition(":")[0] in _LOOPBACK
            if door.inode in self._shut or (inner and _visitors(door, sockets) < self._ranks):
                continue
            _make_deaf(self._process, held[door.inode])
            self._shut.add(door.inode)
            if inner:
                return True
        return False


def _visitors(door: _Socket, sockets: list[_Socket]) -> int:
    """How many connections of this user end there."""
    return sum(each.remote == door.local and each.state == _ESTABLISHED and each.uid == os.getuid() for each in sockets)


def _held(pid: int) -> dict[str, int]:
    """The descriptor of each socket of a process, by its inode."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):  # closed meanwhile
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                found[target[len("socket:[") : -1]] = int(name)
    return found


def _sockets() -> Iterator[_Socket]:
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                yield _Socket(words[1], words[2], words[3], int(words[7]), words[9])


def _make_deaf(process: ProcessId, descriptor: int) -> None:
    """Drop every packet that comes to a listening socket of a process; OSError when that is not possible."""
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
        rule = ctypes.create_string_buffer(struct.pack("@HBBI", _RETURN, 0, 0, 0))
        door.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(rule)))
