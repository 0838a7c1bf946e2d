"""Processes of the benchmark, what they use, and a network of their own."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Program", "own_network", "python"]

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40


@dataclass
class Program:
    """A running program whose output goes to a file; it dies with the benchmark."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, argv: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> Program:
        """Start a program in the repository's root."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_die_with_parent,
            )
        return cls(process, log)

    @property
    def ended(self) -> str:
        """What it said at its end, "" while it runs."""
        if self.process.poll() is None:
            return ""
        return f"{self.process.args!r} ended with {self.process.returncode}: {self.log.read_text()[-2000:]}"

    @property
    def pids(self) -> list[int]:
        """The process and its children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]

    def cpu_seconds(self) -> float:
        """CPU time of all its threads and children so far, in seconds; the kernel counts nanoseconds."""
        tasks = [task for pid in self.pids for task in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def system_calls(self) -> tuple[int, int]:
        """How often it and its children have read and written so far; uvloop does both with calls that are counted."""
        counts = [dict(map(str.split, Path(f"/proc/{pid}/io").read_text().splitlines())) for pid in self.pids]
        reads, writes = (sum(int(each[name]) for each in counts) for name in ("syscr:", "syscw:"))
        return reads, writes

    def resident_mb(self) -> float:
        """Its resident memory in MB, and that of its children; what they share counts for each."""
        return sum(map(_resident_mb, self.pids))

    def stop(self) -> None:
        """End it; killed when it takes more than 5 s."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)


def python(module: str, *arguments: str) -> list[str]:
    """The command line of a program of the repository."""
    return [sys.executable, "-m", module, *arguments]


def own_network() -> None:
    """Go on in a network namespace that has only the loopback interface; OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no network namespace of our own: {os.strerror(number)}")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP | IFF_RUNNING))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / 1e6
