"""What a death costs: how soon it is known, how soon all serve again, and which requests fail of it.

    python benchmarks/restart.py [--repeat N] [--streams N]

Runs 2 context and 2 generation servers of the reference engine on this machine under a steady load, and kills one
thing after another. A line for each: seconds from the death to the first event that tells of it, to READY with nobody
missing, and to the next answer; the requests that failed, and of those the ones that were begun after the death. At the
end one server is killed in a run that restarts nothing: seconds from the death to the verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.steady_load import Load, steady_load
from trtdist.events import EventReader, Record, RunState, TaskStarted

TOPOLOGY = """\
name: restart
model: reference/tiny
engine: reference
launch: per_server
context_servers: {{num_instances: 2, {again}, reference: {{prefill_delay: 0.02}}}}
generation_servers: {{num_instances: 2, {again}, reference: {{step_delay: 0.01}}}}
services: {{nats: {{{again}}}, etcd: {{{again}}}}}
router: {{http: null, {again}}}
"""
AGAIN, NEVER = "restart: {policy: on-failure, max: 100, backoff: 100ms}", "restart: {policy: never}"
VICTIMS = ("ctx.0.0", "gen.0.0", "router", "etcd", "nats")
TRTDIST = [sys.executable, "-m", "trtdist.cli"]


class Run:
    """A deployment of its own, brought up in a folder."""

    def __init__(self, folder: Path, again: str) -> None:
        self._environ = {**os.environ, "TRTDIST_RUNS": str(folder / "runs")}
        file = folder / "cluster.yaml"
        file.write_text(TOPOLOGY.format(again=again))
        self._call("up", str(file), "--local", "--detach")
        self.path = max(path for path in (folder / "runs").iterdir() if not path.is_symlink())

    def _call(self, *words: str) -> None:
        subprocess.run([*TRTDIST, *words], env=self._environ, check=True, capture_output=True)

    def records(self) -> list[Record]:
        """All events so far."""
        return EventReader(self.path / "events").poll()

    def kill(self, name: str) -> float:
        """Kill the task of that name; the time of it."""
        starts = [record.event for record in self.records() if isinstance(record.event, TaskStarted)]
        os.kill([start.pid for start in starts if start.name == name][-1], signal.SIGKILL)
        return time.time()

    def told(self, holds: Callable[[RunState], bool], after: float) -> float:
        """When the first such state after a time was told; waits for it."""
        while True:
            for record in self.records():
                if record.time > after and isinstance(record.event, RunState) and holds(record.event):
                    return record.time
            time.sleep(0.02)

    def down(self) -> None:
        """Take it down."""
        self._call("down")


def measure(run: Run, load: Load, victim: str) -> str:
    """Kill one and wait until all serve again."""
    known = len(load.outcomes)
    died = run.kill(victim)
    told = run.told(lambda state: bool(state.detail), died)
    whole = run.told(lambda state: state.state == "READY" and not state.detail, told)
    while not any(each.begun > whole and not each.error for each in load.outcomes):
        time.sleep(0.02)
    failed = [each for each in load.outcomes[known:] if each.error]
    late = [each for each in failed if each.begun > died]
    gap = load.longest_gap(died)
    times = f"{told - died:7.2f} {whole - died:9.2f} {gap:9.2f}"
    return f"{victim:8} {times} {len(failed):7d} {len(late):12d}"


def verdict_after(folder: Path) -> float:
    """Seconds from a death to the verdict of a run that restarts nothing."""
    run = Run(folder, NEVER)
    died = run.kill("gen.0.0")
    while not (run.path / "verdict.json").exists():
        time.sleep(0.005)
    return float(json.loads((run.path / "verdict.json").read_text())["time"]) - died


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--streams", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="again-", dir="/tmp") as name:
        folder = Path(name)
        run = Run(folder, AGAIN)
        try:
            print("killed    known s  whole s   gap s  failed  begun after", flush=True)
            with steady_load(run.path, given.streams) as load:
                for victim in VICTIMS * given.repeat:
                    print(measure(run, load, victim), flush=True)
            assert len(load.answers()) == 1
        finally:
            run.down()
    with tempfile.TemporaryDirectory(prefix="again-", dir="/tmp") as name:
        print(f"death to verdict without restarts: {verdict_after(Path(name)):.2f} s")


if __name__ == "__main__":
    main()
