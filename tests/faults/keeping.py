"""Keeps the run directories of a cell that does not hold."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.table import Cell

__all__ = ["kept"]


@contextmanager
def kept(cell: Cell, runs: Callable[[], list[Path]], keep: Path | None) -> Iterator[None]:
    """Copy runs to a folder of `keep`, if there is one, when the code in `with` fails."""
    try:
        yield
    except BaseException:
        found = runs()
        if keep is not None and found:
            folder = keep / f"{str(cell).replace(', ', '-').replace(' ', '_')}-{found[0].parent.parent.name}"
            folder.mkdir(parents=True)
            subprocess.run(["cp", "-r", *found, folder], check=False)
        raise
