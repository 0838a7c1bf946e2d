"""`python -m tests.faults [--seed S] [--count N] [--only WORD]... [--json FILE]`: cells of the matrix, drawn at random.

Prints the seed first; the same seed draws the same cells in the same order. The exit code is 1 when one does not hold.
With `--json FILE --skip FILE` a run that was ended goes on where it was; `--keep` holds the runs that did not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from tests.end_to_end.workplace import workplace
from tests.faults.runner import Figures, run_cell
from tests.faults.table import Cell, cells, expected

__all__ = ["Attempt", "draw", "held", "main", "record"]


def draw(seed: int, count: int, only: Sequence[str] = ()) -> list[Cell]:
    """Cells that can be, in a random order; all of which every word of `only` is a part."""
    able = [cell for cell in cells() if not expected(cell).cannot and all(word in str(cell) for word in only)]
    return random.Random(seed).sample(able, min(count, len(able)))


def held(files: Iterable[Path]) -> set[Cell]:
    """The cells that held according to files of `--json`, of which some need not be there yet."""
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return {Cell(**found["cell"]) for found in map(json.loads, lines) if found["figures"]}


@dataclass(frozen=True)
class Attempt:
    """A cell with its figures, or with what did not hold; how long all of it took."""

    cell: Cell
    figures: Figures | None
    problem: str
    seconds: float


def record(one: Attempt) -> str:
    """The line of `--json` for an attempt."""
    return json.dumps(asdict(one)) + "\n"


def attempt(cell: Cell, keep: Path | None = None) -> Attempt:
    """Run one cell at a place of its own; one that does not hold leaves its run directories in a folder of `keep`."""
    begun = time.monotonic()
    figures, problem = None, ""
    try:
        with workplace() as place:
            figures = run_cell(cell, place, keep)
    except (AssertionError, OSError, LookupError, ValueError, subprocess.SubprocessError) as error:
        problem = f"{type(error).__name__}: {error}"
    return Attempt(cell, None if problem else figures, problem, time.monotonic() - begun)


def main(argv: Sequence[str]) -> int:
    """Run cells and print each with its figures as it ends; Ctrl-C lets those that run end."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
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
    drawn = [cell for cell in draw(given.seed, given.count, given.only) if cell not in done]
    with ThreadPoolExecutor(given.jobs) as pool:
        futures = [pool.submit(attempt, cell, given.keep) for cell in drawn]
        try:
            for future in as_completed(futures):
                attempts.append(future.result())
                _tell(attempts[-1], given.json)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
    return _sum_up(given.seed, attempts)


def _tell(one: Attempt, file: TextIO | None) -> None:
    state = "holds" if one.figures else "BROKEN"
    print(f"{state}  {one.cell}  {one.figures or one.problem}  ({one.seconds:.0f} s)", flush=True)
    if file is not None:
        file.write(record(one))
        file.flush()


def _sum_up(seed: int, attempts: Sequence[Attempt]) -> int:
    kept = [one.figures for one in attempts if one.figures]
    for name in ("told", "clean") if kept else ():
        values = [getattr(figures, name) for figures in kept]
        print(f"{name}: median {statistics.median(values):.2f} s, worst {max(values):.2f} s, {len(values)} runs")
    print(f"{len(attempts) - len(kept)} of {len(attempts)} do not hold; seed {seed}")
    return 0 if len(kept) == len(attempts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
