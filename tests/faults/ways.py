"""The ways in which cells of the matrix run: on this machine, or through Slurm on the mini cluster."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import Cluster, locked, running, shared_folder, why_not
from tests.end_to_end.workplace import workplace
from tests.faults import local_place, slurm_place, slurm_table, table
from tests.faults.runner import Figures
from tests.faults.table import Cell, Expected

__all__ = ["LOCALLY", "THROUGH_SLURM", "Way"]


@dataclass(frozen=True)
class Way:
    """What must come of a cell, how one is run at a place of its own (`keep` gets what did not hold), and what is
    held up for all of them."""

    expected: Callable[[Cell], Expected]
    run: Callable[[Cell, Path | None], Figures]
    around: Callable[[], AbstractContextManager[None]]

    def cells(self) -> list[Cell]:
        """Those that can be."""
        return [cell for cell in table.cells() if not self.expected(cell).cannot]


def _locally(cell: Cell, keep: Path | None) -> Figures:
    with workplace() as place:
        return local_place.run_cell(cell, place, keep)


def _through_slurm(cell: Cell, keep: Path | None) -> Figures:
    with shared_folder() as folder:
        return slurm_place.run_cell(cell, Cluster(folder), keep)


@contextmanager
def _cluster() -> Iterator[None]:
    """The mini cluster, shared with tests that do not break it."""
    reason = why_not()
    if reason:
        raise SystemExit(reason)
    with running(), locked("faults", fcntl.LOCK_SH):
        yield


LOCALLY = Way(table.expected, _locally, nullcontext)
THROUGH_SLURM = Way(slurm_table.expected, _through_slurm, _cluster)
