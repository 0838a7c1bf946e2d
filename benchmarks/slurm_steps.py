"""What a supervisor costs with many steps through Slurm: CPU, memory and requests to the controller.

    python benchmarks/slurm_steps.py RUNS_FOLDER [--steps N] [--seconds S] [--json]

Runs inside a job, such as `salloc -N2 --mem=0 python benchmarks/slurm_steps.py ~/bench`; RUNS_FOLDER is seen by all of
its nodes. The steps sleep, each under the real shim. Requests are counted by programs named squeue, scontrol, scancel
and sinfo, first on PATH, which write a line and become the real ones; each srun is one more, to make its step.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trtdist.events import EventReader, TaskStarted
from trtdist.plan import Allocation, Canary, Plan, Rank, Server, Step, to_json
from trtdist.rundir import RunDir

ROOT = Path(__file__).parents[1]
ASKING = ("squeue", "scontrol", "scancel", "sinfo")
# The real supervisor, with head services that need no answer.
SUPERVISOR = """\
import sys
from trtdist.supervisor.__main__ import main
class Nothing:
    def __init__(self, run): pass
    async def resolve(self, service): pass
    async def healthy(self, service): return "none://"
    def port_taken(self, service): return False
sys.exit(main(sys.argv[1:], Nothing))
"""


def make_plan(count: int) -> Plan:
    """So many servers of one rank, each a step of its own."""
    ranks = [(Rank(number, 0, 0, 0, True),) for number in range(count)]
    servers = tuple(Server(f"srv.{i}", "monolithic", i, 1, 1, 1, 0.1, found) for i, found in enumerate(ranks))
    steps = tuple(Step(i + 1, s.name, "workers", 1, 1, (0,), (s.name,)) for i, s in enumerate(servers))
    allocation, canary = Allocation(1, 0, count, 1, 0), Canary("prompt", 4, 0.0, 60.0)
    return Plan(
        "steps", "m", "reference", "trtdist", "per_server", "round_robin", count, allocation, servers, steps, (), canary
    )


def prepare(folder: Path, plan: Plan) -> RunDir:
    """A run directory whose steps sleep."""
    run = RunDir(folder)
    for path in (run.scripts, run.logs, run.events, run.control):
        path.mkdir(parents=True)
    run.plan.write_text(to_json(plan))
    run.resolved_env.write_text(f"TRTDIST_LOCAL_DIR={shlex.quote(str(folder / 'trtdist-none' / 'x'))}\n")
    shim = [sys.executable, "-I", "-S", str(ROOT / "trtdist/supervisor/shim.py"), "--run-dir", str(folder)]
    for step in plan.steps:
        task = [*shim, "--step", step.name, "--name", f"{step.name}.0", "--server", step.name, "--", "sleep", "100000"]
        words = ["srun", f"--job-name={step.name}", "--nodes=1", "--ntasks=1", "--overlap", "--cpu-bind=none"]
        words += ["--mpi=none", "--kill-on-bad-exit=1", "--export=ALL", "--input=none"]
        scrub = "unset ${!SLURM_NT@} ${!SLURM_NPROCS@} ${!SLURM_CPU@}"
        line = shlex.join([*words, "--mem=0", *task])
        (run.scripts / f"{step.stem}.srun.sh").write_text(f"{scrub}\nexec {line}\n")
    return run


def counting(folder: Path) -> dict[str, str]:
    """The environment in which each request is counted in `folder`/requests."""
    folder.mkdir()
    for name in ASKING:
        real = shutil.which(name)
        if real is None:
            sys.exit(f"slurm_steps: {name} is not on PATH: run this where Slurm's client programs are")
        (folder / name).write_text(f'#!/bin/sh\necho {name} >>{folder}/requests\nexec {real} "$@"\n')
        (folder / name).chmod(0o755)
    (folder / "requests").touch()
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def cost(pid: int) -> tuple[float, float]:
    """CPU seconds used so far and resident memory in MiB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    ticks = os.sysconf("SC_CLK_TCK")
    memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return (int(fields[11]) + int(fields[12])) / ticks, memory / 2**20


def measure(runs: Path, count: int, seconds: float) -> dict[str, float]:
    """Start the steps, look for a while, stop them."""
    folder = Path(tempfile.mkdtemp(prefix="steps-", dir=runs))
    try:
        run = prepare(folder / "run", make_plan(count))
        environ = counting(folder / "bin")
        began = time.monotonic()
        with open(run.log("supervisor"), "wb") as log:
            supervisor = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, str(run.path), "--slurm"], env=environ, stderr=log
            )
        try:
            return observe(run, supervisor, count, seconds, began, folder / "bin" / "requests")
        finally:
            supervisor.send_signal(signal.SIGINT)
            supervisor.wait(120)
    finally:
        shutil.rmtree(folder)


def observe(
    run: RunDir, supervisor: subprocess.Popen[bytes], count: int, seconds: float, began: float, requests: Path
) -> dict[str, float]:
    """The figures of a supervisor whose steps all run."""
    reader, started = EventReader(run.events), 0
    while started < count:
        if supervisor.poll() is not None or time.monotonic() > began + 300:
            sys.exit(f"slurm_steps: only {started} of {count} steps came up:\n{run.log('supervisor').read_text()}")
        started += sum(isinstance(record.event, TaskStarted) for record in reader.poll())
        time.sleep(0.05)
    up = time.monotonic() - began
    asked, (cpu, _) = len(requests.read_text().splitlines()), cost(supervisor.pid)
    time.sleep(seconds)
    more, (later, memory) = len(requests.read_text().splitlines()), cost(supervisor.pid)
    stopping = time.monotonic()
    supervisor.send_signal(signal.SIGINT)
    supervisor.wait(120)
    return {
        "steps": count,
        "up_s": up,
        "cpu_percent": 100 * (later - cpu) / seconds,
        "memory_mib": memory,
        "requests_per_minute": 60 * (more - asked) / seconds,
        "requests_to_start": asked + count,
        "requests_to_stop": len(requests.read_text().splitlines()) - more,
        "down_s": time.monotonic() - stopping,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, metavar="RUNS_FOLDER")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    found = measure(options.runs, options.steps, options.seconds)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        print(f"{name:<22}{value:>10.1f}")


if __name__ == "__main__":
    main()
