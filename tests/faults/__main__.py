"""`python -m tests.faults [--slurm] [--seed S] [--count N] [--only WORD]... [--json FILE]`: cells of the matrix.

They are drawn at random. Prints the seed first; the same seed draws the same cells in the same order. The exit code is
1 when one does not hold.
With `--json FILE --skip FILE` a run that was ended goes on where it was; `--keep` holds the runs that did not hold.
With `--slurm` they run on the mini cluster, which is started if no tests have it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import secrets
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TextIO

from tests.faults.attempts import Attempt, attempt, held, outlast_interrupts, record
from tests.faults.table import Cell
from tests.faults.ways import LOCALLY, THROUGH_SLURM, Way

__all__ = ["draw", "main", "sum_up", "tell"]


def draw(seed: int, count: int, only: Sequence[str] = (), way: Way = LOCALLY) -> list[Cell]:
    """Cells that can be, in a random order; all of which every word of `only` is a part."""
    able = [cell for cell in way.cells() if all(word in str(cell) for word in only)]
    return random.Random(seed).sample(able, min(count, len(able)))


def main(argv: Sequence[str]) -> int:
    """Run cells and print each with its figures as it ends; Ctrl-C lets those that run end."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--slurm", dest="way", action="store_const", const=THROUGH_SLURM, default=LOCALLY)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--json", type=argparse.FileType("a"), help="add a line of each cell as it ends")
    parser.add_argument("--skip", type=Path, action="append", default=[], help="leave out what held in such a file")
    parser.add_argument("--keep", type=Path, help="a folder for the run directories of what does not hold")
    given = parser.parse_args(argv)
    print(f"seed {given.seed}", flush=True)
    done, attempts = held(given.skip), list[Attempt]()
    drawn = [cell for cell in draw(given.seed, given.count, given.only, given.way) if cell not in done]
    # Many jobs in one process would get in each other's way, and look too late for their moments.
    processes = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(given.jobs, processes, initializer=outlast_interrupts)
    with given.way.around(), pool:
        for one in _ended({pool.submit(attempt, cell, given.way, given.keep) for cell in drawn}):
            attempts.append(one)
            tell(one, given.json)
    return sum_up(given.seed, attempts)


def _ended(running: set[Future[Attempt]]) -> Iterator[Attempt]:
    """What came of each as it ends; after Ctrl-C of those that run."""
    while running:
        try:
            done, running = wait(running, return_when=FIRST_COMPLETED)
        except KeyboardInterrupt:
            running = {one for one in running if not one.cancel()}
            continue
        yield from (one.result() for one in done)


def tell(one: Attempt, file: TextIO | None = None) -> None:
    """Print an attempt, and add its line to the file of `--json`."""
    state = "holds" if one.figures else "BROKEN"
    print(f"{state}  {one.cell}  {one.figures or one.problem}  ({one.seconds:.0f} s)", flush=True)
    if file is not None:
        file.write(record(one))
        file.flush()


def sum_up(seed: int, attempts: Sequence[Attempt]) -> int:
    """Print how long it took and how many hold; returns the exit code."""
    kept = [one.figures for one in attempts if one.figures]
    for name in ("told", "clean") if kept else ():
        values = [getattr(figures, name) for figures in kept]
        print(f"{name}: median {statistics.median(values):.2f} s, worst {max(values):.2f} s")
    every, broken = len(attempts), len(attempts) - len(kept)
    hold = f"{every} of {every} {'holds' if every == 1 else 'hold'}"
    print(
        f"{broken} of {every} {'does' if broken == 1 else 'do'} not hold" if broken else hold, f"seed {seed}", sep="; "
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
