"""The matrix of faults through Slurm: its table is whole, and cells drawn anew hold on the mini cluster."""

from __future__ import annotations

import secrets

import pytest

from tests.cluster import Cluster
from tests.faults.__main__ import draw
from tests.faults.slurm_place import run_cell
from tests.faults.table import DEADLY, DEPLOYMENTS, MOMENTS, PROCESSES, cells
from tests.faults.ways import LOCALLY, THROUGH_SLURM

OUTCOMES = {"FAILED", "TIMEOUT", "STOPPED", "READY", "AGAIN"}


def test_each_cell_has_an_expectation_or_a_reason() -> None:
    for cell in cells():
        want = THROUGH_SLURM.expected(cell)
        assert bool(want.cannot) != (want.outcome in OUTCOMES), cell
        assert want.seconds > 0


def test_what_can_be_is_what_can_be_on_one_machine_but_for_faults_of_the_machine() -> None:
    able = THROUGH_SLURM.cells()
    assert able == [cell for cell in LOCALLY.cells() if cell.process != "machine"]
    every = {word for cell in able for word in (cell.deployment, cell.process, cell.moment, cell.fault)}
    assert every == {*DEPLOYMENTS, *PROCESSES, *MOMENTS, *DEADLY, "STOP"} - {"machine"}


@pytest.mark.long
@pytest.mark.parametrize("number", range(6))
def test_cells_that_are_drawn(cluster: Cluster, number: int) -> None:
    """All of them take hours: `python -m tests.faults --slurm`."""
    seed = secrets.randbelow(1_000_000)
    print(f"seed {seed}")
    (cell,) = draw(seed, 1, way=THROUGH_SLURM)
    print(cell)
    run_cell(cell, cluster)
