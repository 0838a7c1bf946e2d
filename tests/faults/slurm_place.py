"""The runner's place on the mini cluster: a run through `submit`, by a user whose runs are in a folder of all nodes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import product
from os import kill
from pathlib import Path
from signal import SIGKILL

from benchmarks.steady_load import Load, steady_load
from tests.cluster import PYTHON, ROOT, Cluster
from tests.end_to_end.seen_run import SeenRun
from tests.end_to_end.slurm_user import READY_S, User
from tests.end_to_end.workplace import processes_of
from tests.faults.keeping import kept
from tests.faults.load import STREAMS
from tests.faults.place import Target
from tests.faults.runner import Figures, run
from tests.faults.slurm_table import PATIENCE, expected
from tests.faults.table import Cell
from tests.supervisor.runs import wait_for

__all__ = ["hit_on_node", "run_cell"]

# The context server on one node, the generation server on the other; other runs may be there, too.
NODES = "slurm: {gpus_per_node: 2, mem: 500, time: 00:30:00}\n"
HOSTS = ("node1", "node2", "node3", "node4")
# Clients ask where they reach the run; everything else is done on the submit host.
ASKS_ON = "node4"
_HIT = "import sys; from tests.faults.inflict import PROCESS_FAULTS; PROCESS_FAULTS[sys.argv[1]](int(sys.argv[2]))"
GONE_S = 30.0


def run_cell(cell: Cell, cluster: Cluster, keep: Path | None = None) -> Figures:
    """Run a cell that can be. An AssertionError says what did not hold, and `keep` gets its run directories."""
    with _place(cluster) as place, kept(cell, place.runs, keep):
        return run(cell, expected(cell), place)


def hit_on_node(cluster: Cluster, target: Target, fault: str) -> None:
    """Cause a fault to a process where it runs."""
    python = ("env", f"PYTHONPATH={ROOT}", PYTHON, "-c", _HIT)
    cluster.admin("exec", target.host, *python, fault, str(target.pid))


@dataclass
class _Nodes:
    user: User
    patience: float = PATIENCE
    _started: list[subprocess.Popen[str]] = field(default_factory=list)
    _shared: set[str] = field(default_factory=set)

    def runs(self) -> list[Path]:
        found = self.user.runs.iterdir() if self.user.runs.exists() else ()
        return sorted(path for path in found if not path.is_symlink() and path.name[0] != ".")

    def run_dir(self) -> Path | None:
        return next(reversed(self.runs()), None)

    @property
    def _seen(self) -> SeenRun:
        return SeenRun(self.runs()[-1])

    def bring_up(self, topology: str) -> None:
        path = self.user.cluster.folder / "cluster.yaml"
        path.write_text(topology + NODES)
        self.user.cluster.own(path)
        self.trtdist("submit", path)

    def wait_for_ready(self) -> None:
        wait_for(lambda: self._seen.told('"state": "READY"') or self._seen.verdict(), READY_S, "READY")
        assert self._seen.verdict() is None, self._seen.verdict()

    def start(self, command: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.user.cluster.argv(*self.user.words(command, *arguments), host=_host(command)),
            cwd=self.user.cluster.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def trtdist(self, command: str, *arguments: object) -> str:
        done = self.user.trtdist(command, *arguments, host=_host(command))
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def load(self) -> AbstractContextManager[Load]:
        return steady_load(self.runs()[-1], STREAMS)

    def remember(self) -> None:
        for pid in processes_of(self.user.runs):
            with suppress(OSError):
                words = (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
                self._shared |= {each[5] for each in words if len(each) == 6 and each[5].startswith("/dev/shm/")}

    def hit(self, target: Target, fault: str) -> None:
        hit_on_node(self.user.cluster, target, fault)

    def without_supervisor(self, cell: Cell, seconds: float) -> float:
        """`status` tells that it died, which nobody records before `down`; that also ends one that hangs."""
        if cell.fault != "STOP":
            wait_for(lambda: self.user.state()["state"] == "FAILED", seconds, "FAILED in `status`")
        known = time.monotonic()
        self.trtdist("down")
        return known if cell.fault != "STOP" else time.monotonic()

    def followed_to_its_end(self, seconds: float) -> None:
        job = (self.runs()[-1] / "slurm.job").read_text().strip()
        wait_for(lambda: self.user.job_state(job) not in ("RUNNING", "COMPLETING"), seconds, "the end of its job")
        for process in self._started:
            output, _ = process.communicate(timeout=seconds)
            assert "Traceback" not in output, output

    def nothing_runs(self) -> None:
        wait_for(lambda: not processes_of(self.user.runs), GONE_S, f"the end of {processes_of(self.user.runs)}")
        listed = [self.user.cluster.run("ls", "/dev/shm", host=host).stdout.split() for host in HOSTS]
        left = self._shared & {f"/dev/shm/{name}" for names in listed for name in names}
        assert left == set(), f"shared memory is left: {left}"

    def no_files(self) -> None:
        wait_for(lambda: not self.user.left(), GONE_S, f"{self.user.left()} to be gone")

    def clean(self) -> None:
        """End what a failed cell left, and remove what may have stayed."""
        if self.runs():
            self.user.trtdist("down", "--grace", "5")
        for pid in processes_of(self.user.runs):
            with suppress(ProcessLookupError):
                kill(pid, SIGKILL)
        for process in self._started:
            process.kill()
            process.communicate()
        for name, host in product((folder.name for folder in self.runs()), HOSTS):
            self.user.cluster.run("bash", "-c", f"rm -rf /tmp/trtdist-*/{name}-*; rmdir /tmp/trtdist-*", host=host)


def _host(command: str) -> str:
    return ASKS_ON if command == "client" else "submit"


@contextmanager
def _place(cluster: Cluster) -> Iterator[_Nodes]:
    place = _Nodes(User(cluster))
    try:
        yield place
    finally:
        place.clean()
