"""Starts the steps of a run on this machine. Standard library, Python 3.9."""

from __future__ import annotations

import signal
from collections.abc import Callable

from trtdist.events import TaskStarted
from trtdist.plan import Step
from trtdist.process import ProcessId
from trtdist.rundir import RunDir
from trtdist.supervisor import lineage
from trtdist.supervisor.doors import Doors
from trtdist.supervisor.launch_lines import LaunchLines, Watched
from trtdist.supervisor.launcher import Ended, Gone
from trtdist.supervisor.watch import Watch

__all__ = ["LocalLauncher"]


class LocalLauncher:
    """Runs `scripts/NN-name.local.sh` with bash; knows each task by its shim. `say` takes what goes wrong, as a
    sentence."""

    def __init__(self, run: RunDir, say: Callable[[str], None] = lambda sentence: None) -> None:
        self._watch: Watch[Watched] = Watch()
        self._lines = LaunchLines(run, "local.sh", signal.SIGKILL, self._watch)
        self._tasks: dict[str, list[TaskStarted]] = {}
        self._recorded: list[tuple[str, ProcessId]] = []
        self._doors: dict[str, Doors] = {}
        self._say = say

    def start(self, step: Step, life: str) -> ProcessId:
        """Start a step in a session of its own; returns its first process."""
        identity = self._lines.start(step, life)
        self._tasks[step.name] = []
        self._recorded.append((step.name, identity))
        if step.kind == "workers":
            self._doors[step.name] = Doors(identity, step.tasks, self._say)
        return identity

    def adopt(self, task: TaskStarted) -> None:
        """Watch the shim of a task."""
        shim = ProcessId(task.shim_pid, task.shim_started)
        self._recorded += [(task.name, shim), (task.name, ProcessId(task.pid, task.started))]
        if self._lines.runs(task.step):
            self._tasks[task.step].append(task)
        self._watch.add(task, shim)

    def check(self) -> list[Ended | Gone]:
        """What ended since the last time: tasks, then steps."""
        self._doors = {step: doors for step, doors in self._doors.items() if not doors.look()}
        ended: list[Ended | Gone] = []
        for key, last_seen in self._watch.gone():
            ended.append(self._lines.reap(key, last_seen) if isinstance(key, str) else Gone(key, last_seen))
        return sorted(ended, key=lambda end: isinstance(end, Ended))

    def fileno(self) -> int:
        """Readable when a watched process ended."""
        return self._watch.fileno()

    def signal(self, step: str, number: int) -> None:
        """To the shim of every adopted task; to the first process of the step while there is none."""
        if not self._lines.runs(step):
            return
        sent = [ProcessId(task.shim_pid, task.shim_started).signal(number) for task in self._tasks[step]]
        if not any(sent):
            self._lines.signal(step, number)

    def signal_task(self, step: str, task: str, number: int) -> None:
        """To the shim of a task."""
        for adopted in self._tasks[step] if self._lines.runs(step) else []:
            if adopted.name == task:
                ProcessId(adopted.shim_pid, adopted.shim_started).signal(number)

    def kill(self, step: str) -> None:
        """Kill the programs and shims that are known, with the process groups that they lead, and that of the step."""
        if not self._lines.runs(step):
            return
        for task in self._tasks[step]:
            # A shim that is killed has no time to end what its program has started.
            if ProcessId(task.pid, task.started).alive():
                lineage.kill_group(task.pid)
            ProcessId(task.shim_pid, task.shim_started).signal(signal.SIGKILL)
        self._lines.kill_group(step)

    def killed(self, step: str) -> list[int]:
        """None: `check` reports each shim that vanishes."""
        return []

    def recorded(self) -> list[tuple[str, ProcessId]]:
        """Every process that was ever seen."""
        return list(self._recorded)

    def close(self) -> None:
        """Close what watches; reap what has ended."""
        self._lines.close()
        self._watch.close()
