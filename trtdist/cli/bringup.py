"""The seam between `up` and the way a run is brought up, and the way that needs this machine alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trtdist.cli.prepare import prepare_local
from trtdist.errors import TrtdistError
from trtdist.plan import Plan
from trtdist.rundir import RunDir
from trtdist.supervisor import deaths
from trtdist.supervisor.facts import Death, Settings
from trtdist.topology.model import Topology

__all__ = ["BringUp", "LocalBringUp", "Supervised"]


class Supervised(Protocol):
    """The supervisor of a run, as whoever started it sees it."""

    def interrupt(self, number: int) -> None:
        """Ask for an orderly stop with the signal that was received; each further one shortens the stop."""
        ...

    def kill(self) -> None:
        """End it at once, whatever becomes of the run."""
        ...

    def ended(self) -> Death | None:
        """How it ended; None while it runs."""
        ...


class BringUp(Protocol):
    """One way to bring a run up. STOP signals are held while these run."""

    def prepare(self) -> RunDir:
        """Make the run directory, complete or not at all. TrtdistError as `prepare_local`."""
        ...

    def supervise(self, run: RunDir) -> Supervised:
        """Start the supervisor. TrtdistError when that is impossible; nothing runs then."""
        ...


@dataclass(frozen=True)
class LocalBringUp:
    """A run on this machine, its supervisor a child of this process in a session of its own.

    With `bound_to`, the pid of this process, the run goes down when this process dies.
    """

    topology: Topology
    plan: Plan
    settings: Settings
    bound_to: int = 0

    def prepare(self) -> RunDir:
        """Make the run directory below the runs folder."""
        return prepare_local(self.topology, self.plan, environ=os.environ, now=time.time())

    def supervise(self, run: RunDir) -> Supervised:
        """Start the supervisor, with its output in logs/supervisor.log."""
        argv = [sys.executable, "-m", "trtdist.supervisor", str(run.path), *self._options()]
        log = run.log("supervisor")
        try:
            return _Child(_spawn(argv, log, run.path))
        except OSError as error:
            raise TrtdistError(f"cannot start the supervisor of {run.run_id}: {error}") from error

    def _options(self) -> list[str]:
        bound = [f"--bound-to={self.bound_to}"] if self.bound_to else []
        return [
            *bound,
            f"--ready-timeout={self.settings.ready_timeout}",
            f"--service-timeout={self.settings.service_timeout}",
            f"--stall-timeout={self.settings.stall_timeout}",
            f"--grace={self.settings.grace}",
        ]


class _Child:
    """A supervisor that is a child of this process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def interrupt(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()

    def ended(self) -> Death | None:
        code = self._process.poll()
        if code is None:
            return None
        return deaths.of_supervisor(code if code >= 0 else None, -code if code < 0 else None, time.time())


def _spawn(argv: list[str], log: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own. Python looks for modules in the folder where it starts, so that is not
    the user's."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
