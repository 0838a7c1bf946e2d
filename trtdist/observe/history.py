"""What the events of a run say, folded into the facts that a reader asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from trtdist.events import (
    RUNGS,
    CanaryFailed,
    ControlRefused,
    ControlTaken,
    EndpointUp,
    HandOverPlanned,
    Ready,
    Record,
    Restarting,
    Rung,
    RunState,
    StepExited,
    StepStarted,
    Successor,
    SupervisorStarted,
    TaskExited,
    TaskStarted,
    WrittenOff,
)
from trtdist.supervisor import control

__all__ = ["History", "StepHistory", "TaskHistory"]

_STOP_REQUESTS = (control.DOWN, control.INTERRUPT)
_STOPS = ("STOPPING", "STOPPED", "FAILED", "INTERRUPTED", "TIMEOUT")


@dataclass
class TaskHistory:
    """The last start of a task and, when it ended, how and when (seconds since the epoch); `orphaned` when the first
    process of its step, which had started it, ended before it."""

    start: TaskStarted
    started: float
    exit: TaskExited | None = None
    exited: float = 0.0
    orphaned: bool = False


@dataclass
class StepHistory:
    """The last start of a step and, when its first process ended, how and when that was seen."""

    start: StepStarted
    exit: StepExited | None = None
    exited: float = 0.0


@dataclass
class History:
    """The facts so far; records are added in the order of their time, as often as new ones arrive.

    `asked` is when somebody asked for the end, None while nobody did: an exit before that was not asked for.
    `versions` is what the engine of each server says of itself once it is loaded. `restarts` counts those of each step,
    `written_off` are the steps without which the run goes on, `draining` has who was asked to leave, by the request,
    `successor` is the last word on the run that is to take over, and `next_due` when one is asked for.
    """

    state: str = ""
    detail: str = ""
    begun: float | None = None
    ready: float | None = None
    asked: float | None = None
    last: float = 0.0
    supervisor: SupervisorStarted | None = None
    supervisor_last: float = 0.0
    canary_failure: str = ""
    tasks: dict[str, TaskHistory] = field(default_factory=dict)
    steps: dict[str, StepHistory] = field(default_factory=dict)
    rungs: dict[str, Rung] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    endpoints: dict[str, str] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    written_off: set[str] = field(default_factory=set)
    draining: dict[str, str] = field(default_factory=dict)
    successor: Successor | None = None
    next_due: float | None = None

    def extend(self, records: Iterable[Record]) -> None:
        """Add records."""
        for record in records:
            self._add(record)

    def rung(self, name: str) -> str:
        """The highest rung that a server or service reached, "" for none."""
        found = self.rungs.get(name)
        return found.rung if found else ""

    def _add(self, record: Record) -> None:
        event = record.event
        self.begun = record.time if self.begun is None else min(self.begun, record.time)
        self.last = max(self.last, record.time)
        if record.writer == "supervisor":
            self.supervisor_last = max(self.supervisor_last, record.time)
        if isinstance(event, RunState):
            self._run_state(event, record.time)
        elif isinstance(event, SupervisorStarted):
            self._begin(event)
        elif isinstance(event, ControlTaken) and event.action in _STOP_REQUESTS:
            self._ask(record.time)
        elif isinstance(event, (ControlTaken, ControlRefused, Restarting, WrittenOff)):
            self._change(event)
        elif isinstance(event, (TaskStarted, TaskExited)):
            self._task(event, record.time)
        elif isinstance(event, (StepStarted, StepExited)):
            self._step(event, record.time)
        elif isinstance(event, Rung):
            self._climb(event)
        elif isinstance(event, EndpointUp):
            self.endpoints[event.service] = event.url
        elif isinstance(event, Ready):
            self.ready = record.time if self.ready is None else self.ready
        elif isinstance(event, CanaryFailed):
            self.canary_failure = event.reason
        elif isinstance(event, Successor):
            self.successor = event
        elif isinstance(event, HandOverPlanned):
            self.next_due = event.at

    def _begin(self, event: SupervisorStarted) -> None:
        """A supervisor begins; of an earlier attempt of the run nothing is left."""
        if self.supervisor is not None:
            fresh = History(begun=self.begun, last=self.last, supervisor_last=self.supervisor_last)
            self.__dict__.update(fresh.__dict__)
        self.supervisor = event

    def _run_state(self, event: RunState, time: float) -> None:
        self.state, self.detail = event.state, event.detail
        if event.state in _STOPS:
            self._ask(time)
        if event.state == "READY" and self.ready is None:
            self.ready = time

    def _change(self, event: ControlTaken | ControlRefused | Restarting | WrittenOff) -> None:
        """Take down what the run does about a server that died, or is to leave."""
        if isinstance(event, ControlRefused):
            self.draining.pop(event.request, None)
        elif isinstance(event, ControlTaken):
            if event.action == control.DRAIN:
                self.draining[event.request] = event.server
        elif isinstance(event, Restarting):
            self.restarts[event.step] = self.restarts.get(event.step, 0) + 1
        else:
            self.written_off.add(event.step)

    def _ask(self, time: float) -> None:
        self.asked = time if self.asked is None else min(self.asked, time)

    def _task(self, event: TaskStarted | TaskExited, time: float) -> None:
        task = self.tasks.get(event.name)
        if isinstance(event, TaskStarted):
            if task is not None:
                self.rungs.pop(event.server or event.name, None)
                self.endpoints.pop(event.name, None)
            self.tasks[event.name] = TaskHistory(event, time)
        elif task is not None and task.start.pid == event.pid:
            task.exit, task.exited = event, time
            step = self.steps.get(event.step)
            task.orphaned = step is not None and event.orphan_of == step.start.pid

    def _step(self, event: StepStarted | StepExited, time: float) -> None:
        step = self.steps.get(event.step)
        if isinstance(event, StepStarted):
            self.steps[event.step] = StepHistory(event)
        elif step is not None:
            step.exit, step.exited = event, time

    def _climb(self, event: Rung) -> None:
        if event.rung not in RUNGS:
            return
        if event.rung == "engine":
            self.versions[event.name] = event.detail
        reached = self.rungs.get(event.name)
        if reached is None or RUNGS.index(event.rung) >= RUNGS.index(reached.rung):
            self.rungs[event.name] = event
