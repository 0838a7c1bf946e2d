"""The matrix: process x moment x fault, with what must come of each, or why it cannot be. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "ANYBODY",
    "DEADLY",
    "DEPLOYMENTS",
    "FAULTS",
    "MACHINE_FAULTS",
    "MOMENTS",
    "PROCESSES",
    "Cell",
    "Expected",
    "cells",
    "expected",
    "may_be_new",
    "of_context",
    "waits",
]

# Launch mode and whether roles are restarted.
DEPLOYMENTS = {
    "per_server": ("per_server", False),
    "mpi_world": ("mpi_world", False),
    "per_server again": ("per_server", True),
    "mpi_world again": ("mpi_world", True),
}
# "shim of X" is the program around X, "launcher" is mpiexec of the step of ctx.0, "machine" everything at once.
PROCESSES = (
    "supervisor", "nats", "etcd", "router", "front", "canary", "ctx.0.0", "ctx.0.1", "gen.0.0",
    "shim of nats", "shim of router", "shim of ctx.0.1", "shim of gen.0.0", "launcher", "machine",
)  # fmt: skip
MOMENTS = ("starts", "loaded", "ready", "serves", "stops")
DEADLY = ("KILL", "exit 0", "exit 1")
MACHINE_FAULTS = ("network cut", "disk full", "node disk full", "slow disk", "clock ahead", "clock behind")
FAULTS = (*DEADLY, "STOP", *MACHINE_FAULTS)
FIRST_TO_GO = ("router", "front", "canary", "shim of router")

NOTICED_S, CLEAN_S = 2.0, 6.0
READY_S, STOP_S, UP_S, FOUND_S = 25.0, 15.0, 60.0, 60.0


@dataclass(frozen=True)
class Cell:
    """One fault, done to one process at one moment of one deployment."""

    deployment: str
    process: str
    moment: str
    fault: str

    def __str__(self) -> str:
        return f"{self.deployment}, {self.process}, {self.moment}, {self.fault}"


@dataclass(frozen=True)
class Expected:
    """What must come of a fault within `seconds`: a verdict, READY (the run goes on) or AGAIN (READY once more).

    `causes` are the names of which one is the first cause, none where nothing failed. `instead` are other outcomes
    that are as right, since it depends on who is first. A cell that `cannot` be says why. Where nobody is left to
    remove it, the run's folder on the disk of a node `may_stay`.
    """

    outcome: str = ""
    causes: tuple[str, ...] = ()
    seconds: float = NOTICED_S
    instead: tuple[str, ...] = ()
    cannot: str = ""
    may_stay: bool = False


def cells() -> Iterator[Cell]:
    """All of the matrix, also what cannot be."""
    for deployment in DEPLOYMENTS:
        for process in PROCESSES:
            for moment in MOMENTS:
                for fault in FAULTS:
                    yield Cell(deployment, process, moment, fault)


def expected(cell: Cell) -> Expected:
    """What must come of a cell, or why it cannot be."""
    reason = _cannot(cell)
    if reason:
        return Expected(cannot=reason)
    if cell.process == "machine":
        return _of_machine(cell)
    if cell.fault == "STOP":
        return _of_stop(cell)
    if cell.moment == "stops" and cell.process != "supervisor":
        return Expected("STOPPED", seconds=STOP_S + CLEAN_S)
    return _of_death(cell)


def _cannot(cell: Cell) -> str:
    if (cell.process == "machine") != (cell.fault in MACHINE_FAULTS):
        return "processes of one machine share its disk, network and clock: see the machine"
    if cell.process == "machine":
        return ""
    if cell.moment == "stops" and cell.process in FIRST_TO_GO:
        return "it goes first in a stop, and is gone before it can be hit"
    if cell.process == "canary":
        return _canary_cannot(cell)
    if cell.process in ("router", "shim of router", "front") and cell.moment == "loaded":
        return "it starts with the servers: this is its start"
    return ""


def _canary_cannot(cell: Cell) -> str:
    if cell.moment == "loaded":
        return "it starts with the servers: this is its start"
    if cell.moment in ("ready", "serves") and not DEPLOYMENTS[cell.deployment][1]:
        return "it has done its work and ended, since nothing is started again"
    return ""


def _of_machine(cell: Cell) -> Expected:
    if cell.fault in ("disk full", "node disk full") and cell.moment in ("starts", "loaded"):
        # There may be no more than a few lines to write.
        return Expected("FAILED", ANYBODY, seconds=UP_S, instead=("READY",))
    if cell.fault == "node disk full" and cell.moment != "stops":
        # MPI's shared memory is in files there, which take up room only where they are used.
        return Expected("READY", ANYBODY, seconds=UP_S, instead=("FAILED",))
    return Expected("STOPPED" if cell.moment == "stops" else "READY", seconds=UP_S)


def _of_stop(cell: Cell) -> Expected:
    """A process that hangs: no death, so it is found by a deadline, or by whoever asks it."""
    if cell.process == "supervisor":
        return Expected("INTERRUPTED", seconds=STOP_S)
    if cell.moment == "stops":
        return Expected("STOPPED", seconds=STOP_S + CLEAN_S)
    if cell.moment in ("starts", "loaded") and not cell.process.startswith("shim"):
        return Expected("TIMEOUT", ANYBODY, seconds=READY_S + CLEAN_S, instead=_as_right(cell))
    if cell.moment in ("ready", "serves") and (cell.process in _ASKED or waits(cell)):
        _, again = DEPLOYMENTS[cell.deployment]
        return Expected("AGAIN" if again else "FAILED", (cell.process,), seconds=FOUND_S + (UP_S if again else 0.0))
    # Nobody waits for a shim, a launcher, a canary that has passed, or a follower of which nothing is asked.
    return Expected("READY", seconds=UP_S)


def _as_right(cell: Cell) -> tuple[str, ...]:
    """What may come in place of TIMEOUT of a process that hangs before READY."""
    if cell.process == "launcher":
        # It may have started its ranks already.
        return ("READY",)
    # Who waits for the one that hangs may give up, and a service that answered once may be found to hang in time.
    _, again = DEPLOYMENTS[cell.deployment]
    return ("FAILED", "AGAIN") if again and cell.process in _ASKED else ("FAILED",)


def waits(cell: Cell) -> bool:
    """Whether requests wait for a rank that hangs, of which its leader tells after `timeouts.stall`."""
    return cell.fault == "STOP" and cell.process == "ctx.0.1" and cell.moment == "serves"


def of_context(cell: Cell) -> bool:
    """Whether a process belongs to the context server alone."""
    launch, _ = DEPLOYMENTS[cell.deployment]
    return "ctx." in cell.process or (cell.process == "launcher" and launch == "per_server")


def may_be_new(cell: Cell) -> bool:
    """Whether a service may not have been healthy yet: then it is not started again, its configuration is at fault."""
    return cell.moment == "starts" and cell.process.removeprefix("shim of ") in ("nats", "etcd")


def _of_death(cell: Cell) -> Expected:
    launch, again = DEPLOYMENTS[cell.deployment]
    name = cell.process.removeprefix("shim of ")
    if cell.process == "supervisor":
        return Expected("FAILED", ("supervisor",))
    if cell.process == "launcher":
        name = "workers" if launch == "mpi_world" else "ctx.0"
    if again and may_be_new(cell):
        return Expected("FAILED", (name,), instead=("AGAIN",))
    if again:
        return Expected("AGAIN", (name,), seconds=UP_S)
    return Expected("FAILED", (name,))


# Who answers the supervisor itself, or keeps a lease.
_ASKED = ("nats", "etcd", "router", "front", "ctx.0.0", "gen.0.0")
_RANKS = ("ctx.0.0", "ctx.0.1", "gen.0.0")
ANYBODY = ("", "nats", "etcd", "router", "front", "canary", "workers", "ctx.0", "gen.0", *_RANKS)
