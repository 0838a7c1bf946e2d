"""What all parts of the mini cluster share: its state folder, the processes that it records, and its nodes by name."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

STATE = Path("/run/trtdist-minicluster")
BRIDGE = "trtmini"
SUBNET = "10.77.0"
CONTROLLER_PORT, NODE_PORT, ACCOUNTING_PORT = 16817, 16818, 16819
SRUN_PORTS = "61000-61999"
SUBMIT = "submit"


class MiniclusterError(Exception):
    """What is wrong and what to do, in one sentence."""


@dataclass(frozen=True)
class Shape:
    """What the cluster offers; `memory` in MiB and `kill_wait` in seconds.

    `cut_off` keeps the submit host from the nodes, except through Slurm. `expose` names paths that every user sees on
    the nodes although a folder above them is closed.
    """

    nodes: int
    gpus_per_node: int
    cpus_per_node: int
    memory: int
    kill_wait: int
    cut_off: bool
    expose: tuple[str, ...]


def run(argv: Sequence[str]) -> str:
    """Run a command to its end and return what it printed; a failure is an error with its last line."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise MiniclusterError(f"'{shlex.join(argv)}' failed: {lines[-1] if lines else done.returncode}")
    return done.stdout


def start(argv: Sequence[str], log: Path, environ: dict[str, str] | None = None) -> int:
    """Start a program in a session of its own with its output in a log; returns its pid."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=environ
        )
    return process.pid


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5), field 22); None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def wait_until(holds: Callable[[], bool], seconds: float, complaint: str) -> None:
    """Wait until a condition holds; an error that says `complaint` when it does not in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise MiniclusterError(complaint)
        time.sleep(0.05)


class Record:
    """What `down` must undo, kept in the state folder: processes by pid and start time, in order of their start."""

    def __init__(self) -> None:
        self._path = STATE / "processes.json"
        self.processes = self._read()

    def _read(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = json.loads(self._path.read_text()) if self._path.exists() else {}
        return found

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Change `processes` in between; what others have remembered or forgotten meanwhile stays so."""
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.processes = self._read()
            yield
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self.processes))
            part.replace(self._path)

    def add(self, name: str, pid: int) -> None:
        """Remember a process."""
        started = start_ticks(pid)
        if started is None:
            raise MiniclusterError(f"{name} ended at once; see {STATE}/log/{name}.log")
        with self._changing():
            self.processes[name] = [pid, started]

    def alive(self, name: str) -> bool:
        """Whether exactly the remembered process still runs."""
        pid, started = self.processes.get(name, [0, 0])
        return started != 0 and start_ticks(pid) == started

    def kill(self, name: str, number: int) -> None:
        """Signal a remembered process and wait until it is gone."""
        if self.alive(name):
            os.kill(self.processes[name][0], number)
        wait_until(lambda: not self.alive(name), 10, f"{name} (pid {self.processes[name][0]}) does not end")

    def end(self, name: str) -> None:
        """Kill a process for good, if there was one of that name."""
        if name in self.processes:
            self.kill(name, signal.SIGKILL)
            with self._changing():
                self.processes.pop(name, None)

    def inside(self, name: str) -> int:
        """The pid of the first process inside a node's namespaces."""
        pid = self.processes[name][0]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            raise MiniclusterError(f"{name} is down; `minicluster recover {name}` brings it back")
        return int(children[0])


def node_names(shape: Shape) -> list[str]:
    """The names of the nodes."""
    return [f"node{number}" for number in range(1, shape.nodes + 1)]


def saved_shape() -> Shape:
    """The shape of the cluster that is up."""
    try:
        return Shape(**json.loads((STATE / "shape.json").read_text()))
    except FileNotFoundError:
        raise MiniclusterError("no mini cluster is up; `minicluster up` starts one") from None


def cut_off() -> None:
    """Let the submit host send to nodes only what srun does: to slurmd, and answers to what calls srun back."""
    allowed = ([f"{SUBNET}.1"], [f"{SUBNET}.0/24", "ipproto", "tcp", "dport", str(NODE_PORT)],
               [f"{SUBNET}.0/24", "ipproto", "tcp", "sport", SRUN_PORTS])  # fmt: skip
    rule = ["ip", "-n", f"{BRIDGE}-{SUBMIT}", "rule", "add"]
    for number, target in enumerate(allowed):
        run([*rule, "priority", str(100 + number), "to", *target, "table", "main"])
    run([*rule, "priority", "200", "to", f"{SUBNET}.0/24", "prohibit"])


def slurm(*argv: str) -> str:
    """Run a Slurm command against the mini cluster."""
    environ = {**os.environ, "SLURM_CONF": str(STATE / "slurm.conf")}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout


def idle(names: Sequence[str]) -> bool:
    """Whether Slurm shows all these nodes as ready for work."""
    states = dict(line.split() for line in slurm("sinfo", "-hN", "-p", "batch", "-o", "%N %t").splitlines())
    return all(states.get(name) in ("idle", "mix", "alloc") for name in names)


def missing(programs: Sequence[str]) -> list[str]:
    """Those that are not there."""
    return [program for program in programs if shutil.which(program) is None]


def require(programs: Sequence[str], remedy: str) -> None:
    """An error that says how to install those that are not there."""
    if missing(programs):
        raise MiniclusterError(f"{', '.join(missing(programs))} not found; install with `scripts/minicluster {remedy}`")


def node_of(name: str, *others: str) -> str:
    """The node of that name; an error that lists the nodes when there is none."""
    names = [*node_names(saved_shape()), *others]
    if name not in names:
        raise MiniclusterError(f"there is no node '{name}'; the nodes are {', '.join(names)}")
    return name


def in_mounts_of(record: Record, name: str, argv: Sequence[str]) -> None:
    """Run a command that changes the mounts of a node."""
    run(["nsenter", "--target", str(record.inside(name)), "--mount", "--pid", *argv])
