"""What it costs to start ranks in containers, against ranks on the host: 8 of them on 2 nodes.

    salloc -N2 --ntasks-per-node=4 python benchmarks/container_start.py IMAGE [--runtimes R,...] [--repeat N] [--json]

Runs inside a job. Each figure is the time of one srun, from its start to the end of its last task: a program that ends
at once (`true`), and one that meets all others over MPI, with the Python of the host or of the image. The first start
of each runtime, which finds cold caches, is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from trtdist.containers import RUNTIMES, runtime
from trtdist.containers.base import Container

ROOT = Path(__file__).parents[1]
NODES, RANKS = 2, 8
MEET = "from mpi4py import MPI; MPI.COMM_WORLD.allreduce(1)"
# Every Open MPI has these; a search for faster networks would be measured too.
MPI = {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,vader,tcp", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
# Slurm ends what a task has started with it, and then the shell removes the folder.
TASK = """\
TRTDIST_LOCAL_DIR=$(mktemp -d "${TMPDIR:-/tmp}/container-start.XXXXXX") && export TRTDIST_LOCAL_DIR || exit
trap : TERM
trap 'rm -rf "$TRTDIST_LOCAL_DIR"' EXIT
"$@"
"""


def command(name: str, image: str, program: list[str], mpi: str) -> list[str]:
    """The srun that starts a program on all ranks."""
    srun = ["srun", f"--nodes={NODES}", f"--ntasks={RANKS}", "--overlap", "--mem=0", f"--mpi={mpi}"]
    options = [option.text for option in runtime(name).step_options(Container(image))]
    if not runtime(name).program:
        return [*srun, *options, *program]
    enter = [sys.executable, "-S", "-m", "trtdist.supervisor.enter", f"--runtime={name}", f"--image={image}", "--"]
    return [*srun, "bash", "-c", TASK, "bash", *enter, *program]


def seconds(words: list[str]) -> float:
    """How long a command takes that succeeds."""
    start = time.perf_counter()
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return time.perf_counter() - start


def measured(name: str, image: str, repeat: int) -> dict[str, float]:
    """The figures of one runtime, in seconds."""
    python = sys.executable if name == "none" else "python3"
    settings = ["env", *(f"{key}={value}" for key, value in MPI.items())]
    nothing, meeting = (
        command(name, image, ["true"], "none"),
        command(name, image, [*settings, python, "-c", MEET], "pmix"),
    )
    first = seconds(nothing)
    return {
        "first": first,
        "true": statistics.median(seconds(nothing) for _ in range(repeat)),
        "mpi": statistics.median(seconds(meeting) for _ in range(repeat)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--runtimes", default="none,charliecloud", help=f"of {', '.join(RUNTIMES)}")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {name: measured(name, given.image, given.repeat) for name in given.runtimes.split(",")}
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{RANKS} ranks on {NODES} nodes, seconds of one srun, median of {given.repeat}")
    print(f"{'':14}{'first':>8}{'true':>8}{'MPI':>8}")
    for name, figures in found.items():
        print(f"{name:14}{figures['first']:8.2f}{figures['true']:8.2f}{figures['mpi']:8.2f}")


if __name__ == "__main__":
    main()
