"""A small machine for one run: a network and disks of its own, and a clock and a speed of writing that can change.

Namespaces give network and disks. Clock and speed are those of programs of the C library (Python, MPI), which a
preloaded library tells them; NATS and etcd are Go, ask the kernel themselves, and keep the right time.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.workplace import Workplace

__all__ = ["Machine", "small_machine"]

# etcd makes two files of 64 MiB in the node-local folder.
RUN_DISK, NODE_DISK = "24m", "256m"
SLOW_MS, CUT_S = 100, 3.0
JUMPS_S = {"clock ahead": 600, "clock behind": -600}
FULL = {"disk full": "runs", "node disk full": "tmp"}
PREPARE = """\
ip link set lo up
mount -t tmpfs -o size={run_disk} runs {folder}/runs
mount -t tmpfs -o size={node_disk} tmp {folder}/tmp
echo made
exec sleep infinity
"""
LIBRARY = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *board;
__attribute__((constructor)) static void find_board(void) {
    int file = open(getenv("FAULTS_BOARD") ? getenv("FAULTS_BOARD") : "", O_RDONLY);
    void *found = file < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) board = found;
    if (file >= 0) close(file);
}
static long ahead(void) { return board ? board[0] : 0; }
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}
static void take_time(int file) {
    struct stat what;
    struct timespec pause = {0, board ? board[1] * 1000000 : 0};
    if (pause.tv_nsec && !fstat(file, &what) && S_ISREG(what.st_mode)) nanosleep(&pause, NULL);
}
ssize_t write(int file, const void *data, size_t size) {
    take_time(file);
    return syscall(SYS_write, file, data, size);
}
int fsync(int file) {
    take_time(file);
    return syscall(SYS_fsync, file);
}
"""


@dataclass(frozen=True)
class Machine:
    """What a run of `place` sees; `keeper` is a process inside, `board` what the preloaded library reads."""

    place: Workplace
    keeper: int
    board: Path

    def inflict(self, fault: str) -> None:
        """Cause a fault, which lasts until `mend`."""
        if fault == "network cut":
            self._inside("ip", "link", "set", "lo", "down")
        elif fault in FULL:
            subprocess.run(
                ["dd", "if=/dev/zero", f"of={self._filler(fault)}", "bs=64k"], capture_output=True, check=False
            )
        else:
            self._write(JUMPS_S.get(fault, 0), SLOW_MS if fault == "slow disk" else 0)

    def mend(self, fault: str) -> None:
        """Undo a fault that somebody would mend; a clock stays as it was set."""
        if fault == "network cut":
            self._inside("ip", "link", "set", "lo", "up")
        elif fault in FULL:
            self._filler(fault).unlink(missing_ok=True)
        elif fault == "slow disk":
            self._write(0, 0)

    def _filler(self, fault: str) -> Path:
        return Path(f"{self.place.root}{self.place.folder}/{FULL[fault]}/.filler")

    def _inside(self, *argv: str) -> None:
        subprocess.run([*self.place.inside, *argv], check=True)

    def _write(self, seconds: int, milliseconds: int) -> None:
        with open(self.board, "r+b") as file, mmap.mmap(file.fileno(), 16) as shared:
            shared[:] = struct.pack("ll", seconds, milliseconds)


@contextmanager
def small_machine(place: Workplace) -> Iterator[Machine]:
    """A machine for the runs of a workplace while in `with`."""
    board, source, library = (place.folder / name for name in ("board", "faults.c", "faults.so"))
    board.write_bytes(struct.pack("ll", 0, 0))
    source.write_text(LIBRARY)
    subprocess.run(["cc", "-shared", "-fPIC", "-fno-builtin", "-o", library, source], check=True)
    prepare = PREPARE.format(run_disk=RUN_DISK, node_disk=NODE_DISK, folder=place.folder)
    keeper = subprocess.Popen(
        ["unshare", "--map-root-user", "--mount", "--net", "bash", "-ec", prepare], stdout=subprocess.PIPE, text=True
    )
    try:
        assert keeper.stdout is not None and keeper.stdout.readline() == "made\n"
        place.inside = ("nsenter", "--target", str(keeper.pid), "--user", "--preserve-credentials", "--mount", "--net")
        place.root = f"/proc/{keeper.pid}/root"
        place.environ |= {"LD_PRELOAD": str(library), "FAULTS_BOARD": str(board)}
        yield Machine(place, keeper.pid, board)
    finally:
        keeper.kill()
        keeper.communicate()
        place.inside, place.root = (), ""
