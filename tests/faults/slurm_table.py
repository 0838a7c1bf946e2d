"""What must come of the cells of the matrix through Slurm, where that is not as on one machine. Pure."""

from __future__ import annotations

from dataclasses import replace

from tests.faults import table
from tests.faults.table import Cell, Expected

__all__ = ["PATIENCE", "expected"]

# Times, of what is expected and of what makes a moment last, are as many times those of one machine: the way to a node
# leads over a shared file system and another program's start, and several nodes share a machine.
PATIENCE = 3.0
# By the shim of a rank.
SERVERS = {"shim of ctx.0.1": "ctx.0", "shim of gen.0.0": "gen.0"}


def expected(cell: Cell) -> Expected:
    """What must come of a cell through Slurm, or why it cannot be."""
    want = table.expected(cell)
    if want.cannot:
        return want
    if cell.process == "machine":
        return Expected(cannot="nodes are spoilt by tests that have the cluster for themselves")
    if cell.process == "supervisor":
        return _of_supervisor(cell)
    if cell.process in SERVERS and cell.fault in table.DEADLY and want.causes:
        return _of_shim(cell, replace(want, causes=(*want.causes, *_instead_of_a_rank(cell))))
    return want


def _of_supervisor(cell: Cell) -> Expected:
    """It is the job's own program: its end is that of the job, and no command is in front of it.

    Then Slurm kills all tasks, and a job that has ended can start no step to clean its nodes.
    """
    if cell.fault == "STOP":
        # `down` waits for 15 s until it has Slurm end the job, whose signals wake it up; KillWait is short here.
        return Expected("STOPPED", seconds=table.UP_S, may_stay=True)
    return Expected("FAILED", ("supervisor",), seconds=table.STOP_S, may_stay=True)


def _of_shim(cell: Cell, want: Expected) -> Expected:
    """To srun a task that ended with code 0 has done its work; others may wait for it until the run must be READY."""
    if cell.fault != "exit 0" or cell.moment not in ("starts", "loaded"):
        return want
    return replace(want, causes=table.ANYBODY, instead=(*want.instead, "TIMEOUT"))


def _instead_of_a_rank(cell: Cell) -> tuple[str, ...]:
    """Who may be named when a shim ends with its rank, of which neither tells: the supervisor does not see processes of
    other nodes, so what it knows is the end of the step, or of ranks that have lost a neighbour.

    Of several ranks srun tells which was killed, but not which exited.
    """
    launch, _ = table.DEPLOYMENTS[cell.deployment]
    server = SERVERS[cell.process]
    step = "workers" if launch == "mpi_world" else server
    if cell.fault == "KILL":
        return (step,)
    neighbours = ("ctx.0.0", "ctx.0.1", "gen.0.0") if launch == "mpi_world" else (f"{server}.0",)
    return (step, *neighbours)
