"""Start-up time of the command line against bare Python and against click alone, in one run.

    python benchmarks/help_time.py [--rounds N] [--json]

The three programs take turns, so that whatever else the machine does meets all of them. The best time of each is the
figure that other load disturbs least; the ratio to bare Python travels best between machines.
"""

from __future__ import annotations

import argparse
import compileall
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import trtdist

PROGRAMS = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import click'": ["-c", "import click"],
    "trtdist --help": ["-c", "from trtdist.cli.__main__ import main; main()", "--help"],
    "trtdist status --help": ["-c", "from trtdist.cli.__main__ import main; main()", "status", "--help"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one run of Python."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Best and median in milliseconds, and the ratio of the best to that of bare Python.

    With the bytecode that an installation has.
    """
    compileall.compile_dir(Path(trtdist.__file__).parent, quiet=1)
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, arguments in PROGRAMS.items():
            times[name].append(seconds(arguments))
    bare = min(times["python -c pass"])
    return {
        name: {
            "best_ms": min(found) * 1000,
            "median_ms": statistics.median(found) * 1000,
            "ratio_to_python": min(found) / bare,
        }
        for name, found in times.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.rounds)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{'program':<28}{'best':>9}{'median':>9}{'ratio':>8}")
    for name, row in found.items():
        print(f"{name:<28}{row['best_ms']:>6.0f} ms{row['median_ms']:>6.0f} ms{row['ratio_to_python']:>8.1f}")


if __name__ == "__main__":
    main()
