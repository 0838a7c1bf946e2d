"""One cell run at a place of its own: what came of it, as a line of a file of figures."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.runner import Figures
from tests.faults.table import Cell
from tests.faults.ways import Way

__all__ = ["Attempt", "attempt", "held", "outlast_interrupts", "record"]


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


def attempt(cell: Cell, way: Way, keep: Path | None = None) -> Attempt:
    """Run one cell at a place of its own; one that does not hold leaves its run directories in a folder of `keep`."""
    begun = time.monotonic()
    figures, problem = None, ""
    try:
        figures = way.run(cell, keep)
    except (AssertionError, OSError, LookupError, ValueError, subprocess.SubprocessError) as error:
        problem = f"{type(error).__name__}: {error}"
    return Attempt(cell, None if problem else figures, problem, time.monotonic() - begun)


def held(files: Iterable[Path]) -> set[Cell]:
    """The cells that held according to files of `--json`, of which some need not be there yet."""
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return {Cell(**found["cell"]) for found in map(json.loads, lines) if found["figures"]}


def outlast_interrupts() -> None:
    """Ctrl-C goes to all processes of a terminal; a handler, other than "ignore", is not passed on to programs."""
    signal.signal(signal.SIGINT, lambda number, frame: None)
