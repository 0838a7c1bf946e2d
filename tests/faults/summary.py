"""`python -m tests.faults.summary [--slurm] FILE...`: the table of docs/reliability.md from files of `--json`.

Of a cell that was run more than once the last time counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.faults.runner import Figures
from tests.faults.table import Cell
from tests.faults.ways import LOCALLY, THROUGH_SLURM, Way

__all__ = ["summary"]

ROWS = {
    "FAILED": "FAILED, after a death",
    "AGAIN": "READY again, after a death",
    "STOPPED": "STOPPED, after a death in a stop",
    "TIMEOUT STOP": "TIMEOUT, a death by waiting or READY, after a process hangs before READY (limit 25 s)",
    "FAILED STOP": "FAILED, after a process hangs in a ready run",
    "AGAIN STOP": "READY again, after a process hangs in a ready run",
    "READY STOP": "the run stays, after a process hangs that nobody waits for",
    "STOPPED STOP": "STOPPED, after a process hangs in a stop",
    "supervisor": "FAILED, after the supervisor dies",
    "supervisor STOP": "INTERRUPTED, through Slurm STOPPED, after the supervisor hangs",
    "FAILED machine": "FAILED, or READY all the same, after a disk is full before READY",
    "READY machine": "READY, or FAILED of MPI, after the machine is spoilt and mended",
    "STOPPED machine": "STOPPED, after the machine is spoilt in a stop",
}
# Nothing is told of these.
UNTOLD = ("READY STOP",)


def last_of_each(files: Iterable[Path], way: Way) -> dict[Cell, Figures | None]:
    """The figures of the cells that are in the matrix, None where one did not hold."""
    able = set(way.cells())
    found: dict[Cell, Figures | None] = {}
    for file in files:
        for line in map(json.loads, file.read_text().splitlines()):
            cell = Cell(**line["cell"])
            if cell in able:
                found[cell] = Figures(**line["figures"]) if line["figures"] else None
    return found


def summary(files: Iterable[Path], way: Way = LOCALLY) -> list[str]:
    """The lines of the table, and two that count."""
    found = last_of_each(files, way)
    rows: defaultdict[str, list[Figures]] = defaultdict(list)
    runs: Counter[str] = Counter()
    for cell, figures in found.items():
        runs[_row(cell, way)] += 1
        rows[_row(cell, way)] += [figures] if figures else []
    lines = ["| what comes of the fault | to what is told: median, worst | to nothing left: median, worst | held |"]
    lines += ["|---|---|---|---|"]
    for row, words in ROWS.items():
        if runs[row]:
            told = _seconds([each.told for each in rows[row] if row not in UNTOLD])
            clean = _seconds([each.clean for each in rows[row]])
            lines.append(f"| {words} | {told} | {clean} | {len(rows[row])} of {runs[row]} |")
    kept = [figures for figures in found.values() if figures]
    answered, failed = (sum(getattr(each, name) for each in kept) for name in ("answered", "failed"))
    return [
        *lines,
        f"{len(kept)} of {len(found)} held; {len(way.cells())} can be",
        f"{answered} requests were answered rightly, {failed} ended with an error",
    ]


def _row(cell: Cell, way: Way) -> str:
    if cell.process == "supervisor":
        return "supervisor STOP" if cell.fault == "STOP" else "supervisor"
    kind = cell.fault if cell.fault == "STOP" else cell.process if cell.process == "machine" else ""
    return f"{way.expected(cell).outcome} {kind}".strip()


def _seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} s, {max(values):.1f} s" if values else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults.summary", description=__doc__)
    parser.add_argument("--slurm", dest="way", action="store_const", const=THROUGH_SLURM, default=LOCALLY)
    parser.add_argument("files", type=Path, nargs="+")
    given = parser.parse_args()
    print("\n".join(summary(given.files, given.way)))
