"""How long a deployment takes to come up, where the time goes, and what it costs while it is idle.

    python benchmarks/quickstart_phases.py [--file FILE] [--idle SECONDS] [--json]

Brings FILE (default: examples/quickstart.yaml) up in a runs folder of its own, takes the phases from the run's events,
watches it idle, takes it down. The peer, in the same run, is a bare start of the same programs (nats-server, etcd,
mpiexec with Python, numpy and MPI) without any check: what nobody can save. "ours" is the time to READY less the start
of processes and the load of the engine.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trtdist
from trtdist.events import EndpointUp, EventReader, Record, Rung, StepStarted, SupervisorStarted
from trtdist.observe.runs import find_run
from trtdist.observe.snapshot import RunReader, Snapshot

ROOT = Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stack:
    """A runs folder of its own and the environment that points to it."""

    environ: dict[str, str]

    def trtdist(self, *arguments: str) -> float:
        """Run a command; returns its wall time in seconds."""
        began = time.perf_counter()
        program = [sys.executable, "-c", "from trtdist.cli.__main__ import main; main()", *arguments]
        subprocess.run(program, env=self.environ, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    def processes(self) -> Iterator[int]:
        """The pids of everything that was started with this runs folder in its environment."""
        mark = f"TRTDIST_RUNS={self.environ['TRTDIST_RUNS']}\0".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and mark in _read(entry / "environ"):
                yield int(entry.name)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, 0 when it is gone."""
    stat = _read(Path(f"/proc/{pid}/stat")).decode("utf-8", "replace")
    fields = stat[stat.rfind(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    for line in _read(Path(f"/proc/{pid}/status")).decode().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def phases(records: list[Record], began: float) -> dict[str, float]:
    """Seconds of each phase on the way to READY; phases that overlap are cut where the next one begins."""

    def last(chosen: Callable[[Record], bool]) -> float:
        return max((record.time for record in records if chosen(record)), default=0.0)

    def rung(name: str) -> float:
        return last(lambda record: isinstance(record.event, Rung) and record.event.rung == name and _server(record))

    supervisor = last(lambda record: isinstance(record.event, SupervisorStarted))
    services = last(lambda record: isinstance(record.event, EndpointUp))
    workers = min(
        (r.time for r in records if isinstance(r.event, StepStarted) and r.event.step not in ("nats", "etcd")),
        default=services,
    )
    marks = [
        ("command: check, plan, render, start the supervisor", supervisor),
        ("resolve, NATS and etcd start (processes)", services),
        ("start of the workers' step", workers),
        ("worker processes start: mpiexec, Python, MPI (processes)", rung("process")),
        ("engine loads (engine)", rung("engine")),
        ("registered in etcd", rung("registered")),
        ("answers on NATS", rung("answering")),
        ("canaries to READY", last(lambda record: type(record.event).__name__ == "Ready")),
    ]
    found, before = {}, began
    for name, mark in marks:
        found[name] = max(0.0, mark - before)
        before = max(before, mark)
    return found


def _server(record: Record) -> bool:
    return isinstance(record.event, Rung) and "." in record.event.name


def bare_start(snapshot: Snapshot, environ: dict[str, str]) -> dict[str, float]:
    """Seconds that the same programs take to start when nobody checks anything."""
    ranks = str(snapshot.plan.world_size)
    bin_folder = Path(sys.executable).parent
    code = "import numpy, nats; from mpi4py import MPI; MPI.COMM_WORLD.Barrier()"
    mpiexec = [str(bin_folder / "mpiexec"), "--oversubscribe", "--bind-to", "none", "-n", ranks]
    if os.geteuid() == 0:
        mpiexec.append("--allow-run-as-root")
    quick = {**environ, "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,sm"}
    with tempfile.TemporaryDirectory(prefix="trtdist-bare.") as folder:
        quick |= {"TMPDIR": folder, "OMPI_MCA_btl_sm_backing_directory": folder}
        began = time.perf_counter()
        subprocess.run([*mpiexec, sys.executable, "-c", code], env=quick, check=True, stdout=subprocess.DEVNULL)
        workers = time.perf_counter() - began
    return {"workers": workers}


def idle_cpu(stack: Stack, seconds: float) -> float:
    """CPU time of everything that runs, in percent of one core, over `seconds`."""
    before = {pid: cpu_seconds(pid) for pid in stack.processes()}
    began = time.perf_counter()
    time.sleep(seconds)
    wall = time.perf_counter() - began
    used = sum(max(0.0, cpu_seconds(pid) - start) for pid, start in before.items())
    return 100 * used / wall


def measure(file: Path, idle: float) -> dict[str, object]:
    """Everything, for one run, with the bytecode that an installation has."""
    compileall.compile_dir(Path(trtdist.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory(prefix="trtdist-bench.") as runs:
        stack = Stack({**os.environ, "TRTDIST_RUNS": runs})
        began = time.time()
        wall = stack.trtdist("up", str(file), "--local", "--detach")
        try:
            run = find_run(None, stack.environ)
            snapshot = RunReader(run).look()
            split = phases(EventReader(run.events).poll(), began)
            cpu = idle_cpu(stack, idle)
            memory = resident_mb(snapshot.status.supervisor_pid or 0)
            count = len(list(stack.processes()))
        finally:
            down = stack.trtdist("down")
        left = list(stack.processes())
    total = sum(split.values())
    theirs = sum(value for name, value in split.items() if name.endswith(("(processes)", "(engine)")))
    return {
        "phases_s": split,
        "up_to_ready_s": total,
        "up_command_s": wall,
        "ours_s": total - theirs,
        "bare_s": bare_start(snapshot, stack.environ),
        "down_s": down,
        "idle_cpu_percent_of_a_core": cpu,
        "processes": count,
        "steps": len(snapshot.plan.steps),
        "supervisor_rss_mb": memory,
        "left_over": len(left),
    }


def show(found: dict[str, object]) -> None:
    """Print as a table."""
    split = found["phases_s"]
    assert isinstance(split, dict)
    for name, value in split.items():
        print(f"  {name:<60}{value:>8.3f} s")
    bare = found["bare_s"]
    assert isinstance(bare, dict)
    print(f"{'up to READY':<62}{found['up_to_ready_s']:>8.3f} s")
    print(f"{'  of which ours (without process start and engine load)':<62}{found['ours_s']:>8.3f} s")
    print(f"{'  peer: bare mpiexec, Python, numpy, MPI, no checks':<62}{bare['workers']:>8.3f} s")
    print(f"{'down':<62}{found['down_s']:>8.3f} s")
    print(f"{'idle CPU, % of a core':<62}{found['idle_cpu_percent_of_a_core']:>8.2f}")
    print(f"{'supervisor memory, MB (' + str(found['steps']) + ' steps)':<62}{found['supervisor_rss_mb']:>8.1f}")
    print(f"{'processes while up':<62}{found['processes']:>8}")
    print(f"{'processes left over':<62}{found['left_over']:>8}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--file", type=Path, default=ROOT / "examples" / "quickstart.yaml")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds to watch it idle")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.file, options.idle)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)


if __name__ == "__main__":
    main()
