"""What `trtdist why` needs for a gigabyte of logs: time, memory, and how that compares with `grep -c` over the same.

    python benchmarks/why.py FOLDER [--gigabytes 1] [--ranks 8] [--rounds 3] [--json]

Makes the logs of a run that served until one rank ran out of memory, in FOLDER, and removes them at the end. The reason
lies in the middle of one log, so nothing but reading all of it finds it. The programs take turns; the best round of
each counts, since other work on the machine only adds to it. Processor time is that of a program and its children.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from trtdist.events import EventWriter, RunState, TaskExited, TaskStarted
from trtdist.plan import Allocation, Canary, Plan, Rank, Server, Step, to_json
from trtdist.rundir import RunDir

LINE = (
    "[11/24/2026-10:15:00] [TRT-LLM] [RANK {rank}] [I] iter = {number}, global_rank = {rank}, rank = {rank}, "
    "currank_total_requests = 8/8, host_step_time = 12.3ms, prev_device_step_time = 11.9ms, num_scheduled_requests: 8, "
    "states = {{'num_ctx_requests': 0, 'num_ctx_tokens': 0, 'num_generation_tokens': 8}}\n"
)
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"


@dataclass(frozen=True)
class Figure:
    """One round: seconds on the clock, seconds of the processors, and MiB of the largest process."""

    wall: float
    cpu: float
    memory: float


def make_run(folder: Path, ranks: int, size: int) -> RunDir:
    """The run directory with `size` bytes of logs."""
    run = RunDir(folder / "why-20261124-101500-3fa9")
    for path in (run.path, run.logs, run.events):
        path.mkdir()
    places = tuple(Rank(rank, rank, 0, rank, rank == 0) for rank in range(ranks))
    server = Server("srv.0", "monolithic", 0, ranks, 1, 1, 0.9, places)
    step = Step(1, "workers", "workers", 0, ranks, (0,) * ranks, ("srv.0",))
    given = (Allocation(1, ranks, ranks, 1, 0), (server,), (step,), (), Canary("prompt", 4, 0.0, 60.0))
    run.plan.write_text(to_json(Plan("why", "m", "tensorrt_llm", "trtdist", "mpi_world", "round_robin", ranks, *given)))
    for rank in range(ranks):
        _write_log(run, rank, size // ranks, reason=rank == ranks - 1)
    name = f"srv.0.{ranks - 1}"
    task = EventWriter(run.event_file(f"task.{name}"))
    task.write(TaskStarted("workers", name, "srv.0", ranks - 1, "node1", 1, 1, 2, 2))
    end = task.write(TaskExited("workers", name, 1, 1, None))
    EventWriter(run.event_file("supervisor")).write(RunState("FAILED"))
    first = {"name": name, "step": "workers", "code": 1, "signal": None, "time": end.time, "log": f"logs/{name}.log"}
    run.verdict.write_text(json.dumps({"state": "FAILED", "exit_code": 1, "reason": f"{name} died", "first": first}))
    return run


def _write_log(run: RunDir, rank: int, size: int, reason: bool) -> None:
    """Iterations, and in the middle of one log the reason."""
    block = "".join(LINE.format(rank=rank, number=number) for number in range(4000)).encode()
    with open(run.log(f"srv.0.{rank}"), "wb") as file:
        for number in range(max(2, size // len(block))):
            if reason and number == size // len(block) // 2:
                file.write(OOM.encode())
            file.write(block)


def measure(argv: list[str]) -> tuple[Figure, str]:
    """Run a program once; what it took, and what it printed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # In a process of its own, since the peak of memory of all children is kept as one.
    watch = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", watch, *argv], capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Figure(wall, cpu, int(done.stderr.split()[-1]) / 1024), done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    run = make_run(given.folder, given.ranks, int(given.gigabytes * 1e9))
    os.sync()
    try:
        logs = [str(path) for path in sorted(run.logs.glob("*.log"))]
        # grep looks no further than the first hit when its output is /dev/null, and here it is a pipe.
        peers = {
            "trtdist why": [sys.executable, "-m", "trtdist.cli", "why", str(run.path)],
            "grep -c memory": ["grep", "-c", "memory", *logs],
            "grep -ciE 'error|fail'": ["grep", "-ciE", "error|fail", *logs],
        }
        rounds: dict[str, list[Figure]] = {name: [] for name in peers}
        for _ in range(given.rounds):
            for name, argv in peers.items():
                figure, told = measure(argv)
                rounds[name].append(figure)
                assert name != "trtdist why" or "the GPU had not enough free memory" in told, told
    finally:
        shutil.rmtree(run.path)
    _tell(rounds, given.json)


def _tell(rounds: dict[str, list[Figure]], as_json: bool) -> None:
    best = {name: Figure(*(min(values) for values in zip(*(asdict(f).values() for f in figures), strict=True)))
            for name, figures in rounds.items()}  # fmt: skip
    if as_json:
        print(json.dumps({name: asdict(figure) for name, figure in best.items()}, indent=1))
        return
    print("| program | on the clock | processor time | memory |\n|---|---|---|---|")
    for name, figure in best.items():
        print(f"| `{name}` | {figure.wall:.1f} s | {figure.cpu:.1f} s | {figure.memory:.0f} MiB |")


if __name__ == "__main__":
    main()
