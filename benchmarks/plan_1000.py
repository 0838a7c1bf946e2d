"""How long the plan of 1,000 servers takes, where the time goes, and the whole command against bare Python.

    python benchmarks/plan_1000.py [--rounds N] [--json]

The programs take turns, so that whatever else the machine does meets all of them. The best time of each is the figure
that other load disturbs least; the ratio to bare Python travels best between machines.
"""

from __future__ import annotations

import argparse
import compileall
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trtdist

TOPOLOGY = """\
name: thousand
model: some/model
context_servers: {num_instances: 500, tensor_parallel_size: 2}
generation_servers: {num_instances: 500, tensor_parallel_size: 4}
"""

# Runs in an interpreter of its own and prints seconds by phase.
PHASES = """\
import json, sys, time
from pathlib import Path
marks = [time.perf_counter()]
from trtdist.planning import Target, picture, plan
from trtdist.plan import to_json
from trtdist.topology import load
from trtdist.topology import loading
marks.append(time.perf_counter())
topology = load(Path(sys.argv[1]), environ={})
marks.append(time.perf_counter())
planned = plan(topology, Target.SLURM)
marks.append(time.perf_counter())
picture(planned)
marks.append(time.perf_counter())
to_json(planned)
marks.append(time.perf_counter())
assert len(planned.servers) == 1000
print(json.dumps([after - before for before, after in zip(marks, marks[1:])]))
"""
NAMES = ("import", "load the file", "plan", "map as text", "plan as JSON")


def programs(file: str) -> dict[str, list[str]]:
    """Arguments of Python for each program that is timed as a whole."""
    trtdist = ["-c", "from trtdist.cli.__main__ import main; main()"]
    return {
        "python -c pass": ["-c", "pass"],
        "python -c 'import pydantic, yaml, click'": ["-c", "import pydantic.main, yaml, click"],
        "trtdist plan FILE": [*trtdist, "plan", file],
        "trtdist plan FILE --json": [*trtdist, "plan", file, "--json"],
    }


def seconds(arguments: list[str]) -> float:
    """Wall time of one run of Python."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def phases(file: str) -> list[float]:
    """Seconds of each of NAMES, in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", PHASES, file], capture_output=True, check=True)
    found: list[float] = json.loads(done.stdout)
    return found


def measure(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Best and median in milliseconds by phase and by program, and for programs the ratio to bare Python.

    With the bytecode that an installation has.
    """
    compileall.compile_dir(Path(trtdist.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory(prefix="trtdist-bench.") as folder:
        file = Path(folder) / "thousand.yaml"
        file.write_text(TOPOLOGY)
        split: list[list[float]] = []
        times: dict[str, list[float]] = {name: [] for name in programs(str(file))}
        for _ in range(rounds):
            split.append(phases(str(file)))
            for name, arguments in programs(str(file)).items():
                times[name].append(seconds(arguments))
    bare = min(times["python -c pass"])
    return {
        "phases": {name: _figures(list(found)) for name, found in zip(NAMES, zip(*split))},
        "programs": {name: {**_figures(found), "ratio_to_python": min(found) / bare} for name, found in times.items()},
    }


def _figures(found: list[float]) -> dict[str, float]:
    return {"best_ms": min(found) * 1000, "median_ms": statistics.median(found) * 1000}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.rounds)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{'1,000 servers, 3,000 ranks':<44}{'best':>9}{'median':>9}{'ratio':>8}")
    for rows in found.values():
        for name, row in rows.items():
            ratio = f"{row['ratio_to_python']:>8.1f}" if "ratio_to_python" in row else ""
            print(f"{name:<44}{row['best_ms']:>6.0f} ms{row['median_ms']:>6.0f} ms{ratio}")


if __name__ == "__main__":
    main()
