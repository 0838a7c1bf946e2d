"""What a run may leave behind, by exact identity: its recorded processes and its node-local folder.

Used by the supervisor at its end and by `down` for a supervisor that had none. Standard library, Python 3.9.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trtdist.events import EventReader, StepStarted, SupervisorStarted, TaskStarted
from trtdist.process import ProcessId
from trtdist.rundir import RunDir
from trtdist.services.envfile import read_env_or_nothing

__all__ = ["Remains", "local_folder", "recorded_remains", "supervisor_of"]


@dataclass(frozen=True)
class Remains:
    """Processes with the name of the task or step that they belong to, and the node-local folder."""

    processes: tuple[tuple[str, ProcessId], ...]
    folder: Path

    def alive(self) -> list[tuple[str, ProcessId]]:
        """The processes that still run."""
        return [(name, process) for name, process in self.processes if process.alive()]

    def signal(self, number: int) -> None:
        """Send a signal to each that still runs."""
        for _, process in self.alive():
            process.signal(number)

    def remove_folder(self) -> None:
        """Remove the node-local folder, as far as that is possible, and the one above it after the user's last run."""
        if self.folder.exists() and _is_ours(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):
                self.folder.parent.rmdir()

    def left(self) -> tuple[str, ...]:
        """What is still there, in words."""
        processes = [f"{name} (pid {process.pid})" for name, process in self.alive()]
        return tuple(dict.fromkeys(processes)) + ((str(self.folder),) if self.folder.exists() else ())


def recorded_remains(run: RunDir) -> Remains:
    """What the events of a run name on this machine, the supervisor excepted."""
    return Remains(tuple(_processes(run)), local_folder(run))


def supervisor_of(run: RunDir) -> SupervisorStarted | None:
    """The supervisor as it named itself; None when it never came up."""
    found = [record.event for record in EventReader(run.events).poll() if isinstance(record.event, SupervisorStarted)]
    return found[-1] if found else None


def local_folder(run: RunDir) -> Path:
    """The node-local folder: as resolved in the run, else as it would be now."""
    named = read_env_or_nothing(run.resolved_env).get("TRTDIST_LOCAL_DIR")
    return Path(named) if named else run.local


def _processes(run: RunDir) -> Iterable[tuple[str, ProcessId]]:
    here = socket.gethostname()
    beside_us = True
    for record in EventReader(run.events).poll():
        event = record.event
        if isinstance(event, SupervisorStarted):
            beside_us = event.host == here
        elif isinstance(event, StepStarted) and beside_us:
            yield event.step, ProcessId(event.pid, event.started)
        elif isinstance(event, TaskStarted) and event.host == here:
            yield event.name, ProcessId(event.shim_pid, event.shim_started)
            yield event.name, ProcessId(event.pid, event.started)


def _is_ours(folder: Path) -> bool:
    """Whether a folder has the shape of a run's own and belongs to this user; nothing else is ever removed."""
    return folder.parent.name.startswith("trtdist-") and folder.lstat().st_uid == os.getuid()
