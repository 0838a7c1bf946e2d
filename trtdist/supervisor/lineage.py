"""Ties the life of a child to its parent's, and ends process groups. Linux. Standard library, Python 3.9."""

from __future__ import annotations

import ctypes
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from trtdist.process import ProcessId

__all__ = ["Bound", "adopt_orphans", "bind_to_parent", "child_start_ticks", "children", "kill_group"]

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)


def bind_to_parent(parent: int, number: int) -> bool:
    """Have the kernel send this process a signal when its parent dies; False when `parent` is not its parent.

    The kernel watches the thread that forked: it must live as long as its process.
    """
    if _LIBC.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    return os.getppid() == parent


@dataclass(frozen=True)
class Bound:
    """To be called in a child between fork and exec: it dies with `parent`, also when that died just before."""

    parent: int
    number: int

    def __call__(self) -> None:
        """Bind, or end at once when there is nobody left to be bound to."""
        if not bind_to_parent(self.parent, self.number):
            os.kill(os.getpid(), signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none gets out of sight."""
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def children(pid: int) -> list[ProcessId]:
    """The running children of a process, from /proc (zombies excepted)."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and _parent_of(name) == pid:
            child = ProcessId.of(int(name))
            found += [child] if child is not None else []
    return found


def _parent_of(name: str) -> int:
    try:
        stat = Path(f"/proc/{name}/stat").read_text()
    except OSError:
        return 0
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def child_start_ticks(pid: int) -> int:
    """When a child that was not reaped yet started, in clock ticks since boot, even if it has ended (proc(5))."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def kill_group(leader: int) -> None:
    """Kill every process of a group that one of our own children leads; nothing to do when there is none."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
