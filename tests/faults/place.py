"""Where a cell of the matrix runs: what its runner asks of this machine, or of a cluster."""

from __future__ import annotations

import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.steady_load import Load
from tests.faults.table import Cell

__all__ = ["Place", "Target"]


@dataclass(frozen=True)
class Target:
    """A process that is to be hit, by the host that it runs on."""

    host: str
    pid: int


class Place(Protocol):
    """A place for one run. `patience` is how many times as long as on a quiet machine everything may take here."""

    @property
    def patience(self) -> float: ...

    def run_dir(self) -> Path | None:
        """The directory of the run, None while there is none."""

    def bring_up(self, topology: str) -> None:
        """Have a topology, its text, begin to come up."""

    def wait_for_ready(self) -> None:
        """Return when the run is READY; AssertionError when it ends before."""

    def start(self, command: str, *arguments: object) -> subprocess.Popen[str]:
        """Start a command of trtdist where a user would."""

    def trtdist(self, command: str, *arguments: object) -> str:
        """What such a command prints; AssertionError when it fails."""

    def load(self) -> AbstractContextManager[Load]:
        """A steady load on the run, which answers, while in `with`."""

    def remember(self) -> None:
        """Note what the run uses now that must not outlive it."""

    def hit(self, target: Target, fault: str) -> None:
        """Cause a fault to a process."""

    def without_supervisor(self, cell: Cell, seconds: float) -> float:
        """Do what a user does whose supervisor has had a fault, until there is a verdict; when (monotonic) he knew."""

    def followed_to_its_end(self, seconds: float) -> None:
        """Wait until whoever waits for the end of the run, which has a verdict, knows it."""

    def nothing_runs(self) -> None:
        """AssertionError when a process of the run is left, or shared memory."""

    def no_files(self) -> None:
        """AssertionError when a file of the run is left outside of its directory."""
