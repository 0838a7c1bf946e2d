"""Starts the steps of a run through Slurm, each a named step of the job. Standard library, Python 3.9.

A launch line becomes one `srun`. TERM to that process would abort the step, and its tasks get KILL; so the tasks are
signalled through Slurm, by the id of their step, which their shims tell. That srun aborts on TERM is what ends
everything when the supervisor dies, and what ends a step whose controller does not answer.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from trtdist.errors import SlurmDownError, SlurmGoneError, TrtdistError
from trtdist.events import TaskStarted
from trtdist.plan import Step
from trtdist.process import ProcessId
from trtdist.rundir import RunDir
from trtdist.slurm import argv, parse
from trtdist.slurm.runner import Call
from trtdist.supervisor import deaths
from trtdist.supervisor.launch_lines import LaunchLines, Watched
from trtdist.supervisor.launcher import Ended, Gone
from trtdist.supervisor.watch import Watch

__all__ = ["SlurmLauncher"]

_RETRY = 1.0
_CALL_TIMEOUT = 10.0


@dataclass
class _Step:
    """A started step: its id in Slurm once it is known, and the signal that it is still to be sent (0 for none)."""

    id: str = ""
    wanted: int = 0


@dataclass(frozen=True)
class _Sending:
    """A signal under way to several steps; number 0 stands for the question which ids they have."""

    call: Call
    number: int
    steps: tuple[str, ...]


class SlurmLauncher:
    """Runs `scripts/NN-name.srun.sh` with bash inside the job `job`; `say` takes what goes wrong, as a sentence.

    Slurm's programs run beside the supervisor, one at a time for all steps of the same wish, and are looked after by
    `check`.
    """

    def __init__(self, run: RunDir, job: str, say: Callable[[str], None]) -> None:
        self._job = job
        self._say = say
        self._watch: Watch[Watched] = Watch()
        self._lines = LaunchLines(run, "srun.sh", signal.SIGTERM, self._watch)
        self._steps: dict[str, _Step] = {}
        self._past: set[str] = set()
        self._sending: list[_Sending] = []
        self._not_before = 0.0
        self._here = socket.gethostname()
        self._recorded: list[tuple[str, ProcessId]] = []

    def start(self, step: Step, life: str) -> ProcessId:
        """Start the launch line of a step; returns its first process, which becomes srun."""
        identity = self._lines.start(step, life)
        self._past.add(self._steps.get(step.name, _Step()).id)
        self._steps[step.name] = _Step()
        self._recorded.append((step.name, identity))
        return identity

    def adopt(self, task: TaskStarted) -> None:
        """Learn from a task which step of Slurm's it belongs to."""
        step = self._steps.get(task.step)
        if step is not None and task.slurm_step not in self._past:
            step.id = task.slurm_step
        if task.host == self._here:
            self._recorded.append((task.name, ProcessId(task.shim_pid, task.shim_started)))
            self._recorded.append((task.name, ProcessId(task.pid, task.started)))

    def check(self) -> list[Ended | Gone]:
        """Which steps ended since the last time. Slurm ends a step when one of its tasks dies."""
        ended: list[Ended | Gone] = [self._lines.reap(str(key), seen) for key, seen in self._watch.gone()]
        self._pursue()
        return ended

    def fileno(self) -> int:
        """Readable when the srun of a step ended."""
        return self._watch.fileno()

    def signal(self, step: str, number: int) -> None:
        """To all tasks of the step, by the next `check` that finds it known to Slurm: one program for many steps."""
        if self._lines.runs(step):
            self._steps[step].wanted = number

    def signal_task(self, step: str, task: str, number: int) -> None:
        """To all tasks of the step, since Slurm knows no less; several wishes at once are one."""
        self.signal(step, number)

    def kill(self, step: str) -> None:
        """Have Slurm kill the step, and srun abort it: whichever comes through."""
        if self._lines.runs(step):
            self._lines.signal(step, signal.SIGTERM)
            self.signal(step, signal.SIGKILL)

    def killed(self, step: str) -> list[int]:
        """Those that srun names first, in what it has printed of this step so far."""
        return parse.first_killed(self._lines.printed(step), deaths.FOLLOWING)

    def recorded(self) -> list[tuple[str, ProcessId]]:
        """Every process of this node that was ever seen."""
        return list(self._recorded)

    def close(self) -> None:
        """Close what watches; reap what has ended."""
        self._lines.close()
        self._watch.close()

    def _pursue(self) -> None:
        """Look after the programs under way, then send what is still to be sent."""
        for sending in [sending for sending in self._sending if sending.call.done()]:
            self._sending.remove(sending)
            self._take(sending)
        busy = {step for sending in self._sending for step in sending.steps}
        waiting = {name: step for name, step in self._steps.items() if step.wanted and self._lines.runs(name)}
        ready = {name: step for name, step in waiting.items() if name not in busy}
        if not ready or time.monotonic() < self._not_before:
            return
        for number in sorted({step.wanted for step in ready.values() if step.id}):
            self._send(number, tuple(name for name, step in ready.items() if step.id and step.wanted == number))
        unknown = tuple(name for name, step in ready.items() if not step.id)
        if unknown:
            self._begin(argv.squeue_steps(self._job), 0, unknown)

    def _send(self, number: int, names: tuple[str, ...]) -> None:
        ids = [self._steps[name].id for name in names]
        for name in names:
            self._steps[name].wanted = 0
        word = "" if number == signal.SIGKILL else signal.Signals(number).name[3:]
        self._begin(argv.scancel(*ids, signal=word), number, names)

    def _begin(self, words: list[str], number: int, names: tuple[str, ...]) -> None:
        try:
            self._sending.append(_Sending(Call(words, _CALL_TIMEOUT), number, names))
        except TrtdistError as error:
            self._say(str(error))
            self._not_before = time.monotonic() + _RETRY

    def _take(self, sending: _Sending) -> None:
        """Take what a program said: ids, or whether the signal came through."""
        try:
            said = sending.call.output()
        except SlurmDownError as error:
            self._say(f"{error}; asking again")
            self._not_before = time.monotonic() + _RETRY
            for name in sending.steps:
                self._steps[name].wanted = self._steps[name].wanted or sending.number
        except SlurmGoneError:
            pass  # the step has just ended
        except TrtdistError as error:
            self._say(str(error))
        else:
            if sending.number == 0:
                self._learn(parse.steps(said), sending.steps)

    def _learn(self, found: list[parse.Step], names: tuple[str, ...]) -> None:
        for step in found:
            if step.name in names and step.id not in self._past:
                self._steps[step.name].id = step.id
        if not all(self._steps[name].id for name in names):
            # Slurm has not made the step yet.
            self._not_before = time.monotonic() + _RETRY
