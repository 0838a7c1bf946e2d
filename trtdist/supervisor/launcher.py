"""The seam between the supervisor and what starts processes: the Launcher Protocol.

A launcher starts rendered step files and builds no command line of its own. Standard library, Python 3.9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from trtdist.events import TaskStarted
from trtdist.plan import Step
from trtdist.process import ProcessId

__all__ = ["Ended", "Gone", "LaunchError", "Launcher"]


class LaunchError(Exception):
    """A step could not be started; the message finishes the sentence "it could not be started: ..."."""


@dataclass(frozen=True)
class Ended:
    """The first process of a step ended; `at` (epoch seconds) is when it was last seen alive if a signal ended it,
    else when its end was seen."""

    step: str
    code: int | None
    signal: int | None
    at: float


@dataclass(frozen=True)
class Gone:
    """The shim of a task is gone, whether it told its end or not; `at` is when it was last seen alive."""

    task: TaskStarted
    at: float


class Launcher(Protocol):
    """Starts steps, watches them, ends them.

    1. `start` runs the launch line of a step; what that itself prints goes to logs/launch.<step>.log. Its tasks have
       the name of their life as $TRTDIST_LIFE.
    2. A step may be started again once it has ended.
    3. Tasks announce themselves through events; `adopt` hands each announcement to the launcher.
    4. `check` reports every end exactly once. `fileno` is readable when `check` has something new to say; a launcher
       that cannot promise that is also checked ten times a second.
    5. `signal` reaches every adopted task of a step, or, when none is adopted yet, what will become the tasks; it may
       take until later calls of `check`.
    6. `kill` leaves no process of a step alive. Ends that follow are reported as any other.
    7. Everything that was started ends when the supervisor dies.
    8. `killed` gives the numbers of the tasks of a step that were killed, shim and all, where `check` does not
       report them.
    9. A signal from the terminal of the supervisor reaches nothing that was started.
    """

    def start(self, step: Step, life: str) -> ProcessId:
        """Start a step, into a life of this name; returns its first process. LaunchError when that is impossible."""
        ...

    def adopt(self, task: TaskStarted) -> None:
        """Watch a task, and signal it with its step."""
        ...

    def check(self) -> list[Ended | Gone]:
        """What ended since the last time."""
        ...

    def fileno(self) -> int:
        """A descriptor that becomes readable when something ended."""
        ...

    def signal(self, step: str, number: int) -> None:
        """Send a signal to every task of a step."""
        ...

    def signal_task(self, step: str, task: str, number: int) -> None:
        """Send a signal to one task; where that is impossible, to all of its step."""
        ...

    def kill(self, step: str) -> None:
        """End every process of a step at once."""
        ...

    def killed(self, step: str) -> list[int]:
        """The numbers of killed tasks, as far as the launch line has told."""
        ...

    def recorded(self) -> list[tuple[str, ProcessId]]:
        """Every process that was ever seen on this machine, with the name of its task or step."""
        ...

    def close(self) -> None:
        """Give everything back; kills nothing."""
        ...
