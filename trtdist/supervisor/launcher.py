"""The seam between the supervisor and what starts processes: the Launcher Protocol, and its local implementation.

A launcher starts rendered step files and builds no command line of its own. Standard library, Python 3.9.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Union

from trtdist.events import TaskStarted
from trtdist.plan import Step
from trtdist.process import ProcessId
from trtdist.rundir import RunDir
from trtdist.supervisor import lineage
from trtdist.supervisor.watch import Watch

__all__ = ["Ended", "Gone", "LaunchError", "Launcher", "LocalLauncher"]


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

    1. `start` runs the launch line of a step; what that itself prints goes to logs/launch.<step>.log.
    2. A step may be started again once it has ended.
    3. Tasks announce themselves through events; `adopt` hands each announcement to the launcher.
    4. `check` reports every end exactly once. `fileno` is readable when `check` has something new to say; a launcher
       that cannot promise that is also checked ten times a second.
    5. `signal` reaches every adopted task of a step, or, when none is adopted yet, what will become the tasks.
    6. `kill` leaves no process of a step alive. Ends that follow are reported as any other.
    7. Everything that was started ends when the supervisor dies.
    8. A signal from the terminal of the supervisor reaches nothing that was started.
    """

    def start(self, step: Step) -> ProcessId:
        """Start a step; returns its first process. LaunchError when that is impossible."""
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
        """Send a signal to one task."""
        ...

    def kill(self, step: str) -> None:
        """End every process of a step at once."""
        ...

    def recorded(self) -> list[tuple[str, ProcessId]]:
        """Every process that was ever seen, with the name of its task or step."""
        ...

    def close(self) -> None:
        """Give everything back; kills nothing."""
        ...


@dataclass
class _Step:
    """A started step: its first process, and the tasks that were adopted since."""

    process: subprocess.Popen[bytes]
    identity: ProcessId
    tasks: list[TaskStarted]


_Watched = Union[str, TaskStarted]


class LocalLauncher:
    """Runs `scripts/NN-name.local.sh` with bash on this machine."""

    suffix = "local.sh"

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._steps: dict[str, _Step] = {}
        self._watch: Watch[_Watched] = Watch()
        self._recorded: list[tuple[str, ProcessId]] = []

    def start(self, step: Step) -> ProcessId:
        """Start a step in a session of its own; returns its first process."""
        script = self._run.scripts / f"{step.stem}.{self.suffix}"
        if not script.is_file():
            raise LaunchError(f"scripts/{script.name} is missing")
        try:
            process = self._spawn(script, self._run.log(f"launch.{step.name}"))
        except (OSError, subprocess.SubprocessError) as error:
            raise LaunchError(f"scripts/{script.name}: {error}") from error
        # A child that was not reaped yet has a start time even when it has already ended.
        identity = ProcessId(process.pid, lineage.child_start_ticks(process.pid))
        self._steps[step.name] = _Step(process, identity, [])
        self._watch.add(step.name, identity)
        self._recorded.append((step.name, identity))
        return identity

    def _spawn(self, script: Path, log: Path) -> subprocess.Popen[bytes]:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                ["bash", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                preexec_fn=lineage.Bound(os.getpid(), signal.SIGKILL),
            )
        finally:
            os.close(descriptor)

    def adopt(self, task: TaskStarted) -> None:
        """Watch the shim of a task."""
        shim = ProcessId(task.shim_pid, task.shim_started)
        self._recorded += [(task.name, shim), (task.name, ProcessId(task.pid, task.started))]
        step = self._steps.get(task.step)
        if step is not None:
            step.tasks.append(task)
        self._watch.add(task, shim)

    def check(self) -> list[Ended | Gone]:
        """What ended since the last time: tasks, then steps."""
        ended: list[Ended | Gone] = []
        for key, last_seen in self._watch.gone():
            ended.append(self._reap(key, last_seen) if isinstance(key, str) else Gone(key, last_seen))
        return sorted(ended, key=lambda end: isinstance(end, Ended))

    def _reap(self, name: str, last_seen: float) -> Ended:
        step = self._steps.pop(name)
        code = step.process.wait()
        if code < 0:
            return Ended(name, None, -code, last_seen)
        return Ended(name, code, None, time.time())

    def fileno(self) -> int:
        """Readable when a watched process ended."""
        return self._watch.fileno()

    def signal(self, step: str, number: int) -> None:
        """To the shim of every adopted task; to the first process of the step while there is none."""
        started = self._steps.get(step)
        if started is None:
            return
        sent = [ProcessId(task.shim_pid, task.shim_started).signal(number) for task in started.tasks]
        if not any(sent):
            started.identity.signal(number)

    def signal_task(self, step: str, task: str, number: int) -> None:
        """To the shim of a task."""
        started = self._steps.get(step)
        for adopted in started.tasks if started is not None else []:
            if adopted.name == task:
                ProcessId(adopted.shim_pid, adopted.shim_started).signal(number)

    def kill(self, step: str) -> None:
        """Kill the programs and shims that are known and the process group of the step."""
        started = self._steps.get(step)
        if started is None:
            return
        for task in started.tasks:
            ProcessId(task.pid, task.started).signal(signal.SIGKILL)
            ProcessId(task.shim_pid, task.shim_started).signal(signal.SIGKILL)
        lineage.kill_group(started.process.pid)

    def recorded(self) -> list[tuple[str, ProcessId]]:
        """Every process that was ever seen."""
        return list(self._recorded)

    def close(self) -> None:
        """Close what watches; reap what has ended."""
        for step in self._steps.values():
            step.process.poll()
            step.process.returncode = step.process.returncode if step.process.returncode is not None else 0
        self._watch.close()
