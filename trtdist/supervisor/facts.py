"""What the supervisor's state machine hears and says: its settings, events and actions, as frozen facts.

`now` is a monotonic clock in seconds, read by deadlines only. `at` is seconds since the epoch, as in the event files,
and orders deaths. Standard library, Python 3.9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

__all__ = [
    "Action",
    "Announce",
    "Begin",
    "Broke",
    "CameReady",
    "Conclude",
    "Death",
    "EveryoneTerminated",
    "Finish",
    "Healthy",
    "Input",
    "Kill",
    "Outcome",
    "PortTested",
    "Probe",
    "Reached",
    "Resolve",
    "Resolved",
    "Settings",
    "Signal",
    "SignalCame",
    "SignalTask",
    "Start",
    "StartFailed",
    "StepEnded",
    "StopAsked",
    "Sweep",
    "Swept",
    "TaskBegan",
    "TaskEnded",
    "TaskGone",
    "TaskRefused",
    "TestPort",
    "Tick",
    "TimeLimit",
    "Unresolved",
]


@dataclass(frozen=True)
class Settings:
    """How long things may take, in seconds.

    `start_timeout` is how long a step may take until one of its tasks runs. `settle` is how long deaths are collected
    before the earliest is called the cause, `doubt` the same after a signal whose meaning is being found out. `grace`
    is what all tiers of a stop have together before KILL, `failure_grace` the same after a death, `hurried_grace` what
    a second request leaves. `kill_wait` is how long the end of a step is awaited after KILL. `port_attempts` counts
    starts of a service whose port was taken.
    """

    ready_timeout: float = 1800.0
    service_timeout: float = 30.0
    start_timeout: float = 120.0
    settle: float = 0.15
    doubt: float = 1.0
    grace: float = 10.0
    failure_grace: float = 1.2
    hurried_grace: float = 2.0
    kill_wait: float = 1.0
    port_attempts: int = 5


@dataclass(frozen=True)
class Death:
    """An end that nobody asked for.

    `name` is the task (`gen.0.1`), or the step when its launcher itself died. `how` finishes the sentence
    "gen.0.1 ...". `order` breaks ties of `at`: what was only seen to be gone stands before what told its end.
    """

    name: str
    step: str
    code: int | None
    signal: int | None
    at: float
    how: str
    order: int


@dataclass(frozen=True)
class Outcome:
    """How the run ended.

    `state` is one of verdict.json, `reason` one sentence, `first` who died first, `left` what could not be removed.
    """

    state: str
    exit_code: int
    reason: str
    first: Death | None = None
    left: tuple[str, ...] = ()


# What the machine hears.


@dataclass(frozen=True)
class Begin:
    """The supervisor is up; the run may start."""


@dataclass(frozen=True)
class Tick:
    """Nothing but time went by."""


@dataclass(frozen=True)
class Resolved:
    """Addresses and ports are written; `service` "" means all of them."""

    service: str


@dataclass(frozen=True)
class Unresolved:
    """Addresses and ports could not be found; `reason` is a sentence."""

    service: str
    reason: str


@dataclass(frozen=True)
class StartFailed:
    """The file of a step could not be started; `reason` finishes the sentence "gen.0 could not be started: ..."."""

    step: str
    reason: str
    at: float


@dataclass(frozen=True)
class StepEnded:
    """The first process of a step ended; for an end by signal, `at` is when it was last seen alive."""

    step: str
    code: int | None
    signal: int | None
    at: float


@dataclass(frozen=True)
class TaskBegan:
    """A shim told that its task runs."""

    step: str
    task: str


@dataclass(frozen=True)
class TaskEnded:
    """A shim told that its task ended."""

    step: str
    task: str
    code: int | None
    signal: int | None
    at: float


@dataclass(frozen=True)
class TaskGone:
    """The shim of a task vanished without a word; `at` is when it was last seen alive."""

    step: str
    task: str
    at: float


@dataclass(frozen=True)
class TaskRefused:
    """A task does not run where it is; `reason` finishes the sentence "gen.0.1 ..."."""

    step: str
    task: str
    reason: str
    at: float


@dataclass(frozen=True)
class PortTested:
    """Whether the port of a service that died before it was healthy is in other hands."""

    step: str
    taken: bool


@dataclass(frozen=True)
class Healthy:
    """A service, known to be ours, answers at `url`."""

    step: str
    url: str


@dataclass(frozen=True)
class Reached:
    """A server or program reached a rung of the readiness ladder."""

    name: str
    rung: str


@dataclass(frozen=True)
class CameReady:
    """The canary said that every server took part in an answered prompt."""


@dataclass(frozen=True)
class StopAsked:
    """Somebody wants the end. `interrupt` tells Ctrl-C or TERM from `down`; `grace` None leaves it to us."""

    interrupt: bool
    grace: float | None
    reason: str


@dataclass(frozen=True)
class SignalCame:
    """The supervisor got a signal; what it means is told by a later input."""


@dataclass(frozen=True)
class TimeLimit:
    """The scheduler will end the job soon; `reason` is a sentence."""

    reason: str


@dataclass(frozen=True)
class EveryoneTerminated:
    """TERM reached every process of the run at this instant and no new step can start.

    `state` and `exit_code` are for the verdict. `certain` says that the scheduler names the cause itself, so that no
    death that was seen just before is taken for it.
    """

    reason: str
    state: str = "INTERRUPTED"
    exit_code: int = 130
    certain: bool = False


@dataclass(frozen=True)
class Broke:
    """The supervisor itself cannot go on; `reason` is a sentence."""

    reason: str


@dataclass(frozen=True)
class Swept:
    """The last look for leftovers is done; `left` names what could not be removed."""

    left: tuple[str, ...]


Input = Union[
    Begin,
    Tick,
    Resolved,
    Unresolved,
    StartFailed,
    StepEnded,
    TaskBegan,
    TaskEnded,
    TaskGone,
    TaskRefused,
    PortTested,
    Healthy,
    Reached,
    CameReady,
    StopAsked,
    SignalCame,
    TimeLimit,
    EveryoneTerminated,
    Broke,
    Swept,
]


# What the machine says.


@dataclass(frozen=True)
class Resolve:
    """Find addresses and ports, of all ("") or again of one service; answered by Resolved or Unresolved."""

    service: str


@dataclass(frozen=True)
class Start:
    """Start the file of a step; answered by StartFailed when that is impossible."""

    step: str


@dataclass(frozen=True)
class Probe:
    """Ask a service for its health until it is healthy or ends; answered by Healthy."""

    step: str


@dataclass(frozen=True)
class TestPort:
    """Look whether the port of a service is taken; answered by PortTested."""

    __test__ = False

    step: str


@dataclass(frozen=True)
class Signal:
    """Send a signal to every task of a step."""

    step: str
    number: int


@dataclass(frozen=True)
class SignalTask:
    """Send a signal to one task that came up while its step was being stopped."""

    step: str
    task: str
    number: int


@dataclass(frozen=True)
class Kill:
    """End every process of a step at once."""

    step: str


@dataclass(frozen=True)
class Announce:
    """Tell the world the state of the run."""

    state: str
    detail: str


@dataclass(frozen=True)
class Sweep:
    """Kill whatever is left and remove the node-local folder, on the other nodes too if `elsewhere`; answered by
    Swept."""

    elsewhere: bool = True


@dataclass(frozen=True)
class Conclude:
    """Write the verdict."""

    outcome: Outcome


@dataclass(frozen=True)
class Finish:
    """The supervisor may go, with this exit code."""

    exit_code: int


Action = Union[Resolve, Start, Probe, TestPort, Signal, SignalTask, Kill, Announce, Sweep, Conclude, Finish]
