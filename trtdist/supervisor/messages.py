"""What the supervisor's state machine hears and says: its inputs and actions, as frozen facts.

`now` is a monotonic clock in seconds, read by deadlines only. `at` is seconds since the epoch, as in the event files,
and orders deaths. Standard library, Python 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

from trtdist.supervisor import handover_messages as handover
from trtdist.supervisor import renewal_messages as renewal
from trtdist.supervisor.facts import Outcome, Stall

__all__ = [
    "Action",
    "Announce",
    "Begin",
    "Broke",
    "CameReady",
    "Conclude",
    "DrainAsked",
    "Drained",
    "EveryoneTerminated",
    "Examine",
    "FindKilled",
    "Finish",
    "Healthy",
    "Input",
    "Kill",
    "Moved",
    "Place",
    "Placed",
    "PortTested",
    "Probe",
    "Reached",
    "Refuse",
    "Resolve",
    "Resolved",
    "Restarting",
    "Seen",
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
    "TellStalled",
    "TestPort",
    "Tick",
    "TimeLimit",
    "Unanswered",
    "Unresolved",
    "Withdraw",
    "Withdrawn",
    "WrittenOff",
]


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
    """A shim told that its task ended; `orphaned` says that the first process of its step had ended before."""

    step: str
    task: str
    code: int | None
    signal: int | None
    at: float
    orphaned: bool = False


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
class Unanswered:
    """A canary was not answered by this pair; `server` is where it was then, "" when that is not known."""

    context: str
    generation: str
    reason: str
    server: str


@dataclass(frozen=True)
class Moved:
    """The logs were looked at: so many seconds ago the log of each of these tasks grew, as far as it did since. `far`
    are the steps of loading, by their numbers, that have shown up in logs since."""

    ago: Mapping[str, float]
    far: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A task was seen to work or not; `doing` finishes the sentence "gen.0.1 ..."."""

    task: str
    working: bool
    doing: str


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
class DrainAsked:
    """Somebody wants a server to finish its requests and leave, within `grace` seconds (None leaves it to us)."""

    request: str
    server: str
    grace: float | None


@dataclass(frozen=True)
class Withdrawn:
    """Nobody finds the servers of a step any more, as far as etcd could be asked."""

    step: str


@dataclass(frozen=True)
class Placed:
    """The nodes of a step are as good as they can be; a node that is down and has no spare is found by starting."""

    step: str


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
    Unanswered,
    Moved,
    Seen,
    CameReady,
    StopAsked,
    DrainAsked,
    Withdrawn,
    Placed,
    SignalCame,
    TimeLimit,
    EveryoneTerminated,
    Broke,
    Swept,
    handover.HandOverDue,
    handover.SuccessorAsked,
    handover.SuccessorReady,
    handover.SuccessorLost,
    renewal.LookedAt,
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
class Examine:
    """Have it written down what every task does; answered by Seen for each that can be asked."""


@dataclass(frozen=True)
class TellStalled:
    """Tell the world that a server makes no progress."""

    stall: Stall


@dataclass(frozen=True)
class FindKilled:
    """Look which tasks of a step were killed, where nothing else would tell; answered by TaskGone for each."""

    step: str


@dataclass(frozen=True)
class Signal:
    """Send a signal to every task of a step, which it has `within` seconds to finish after."""

    step: str
    number: int
    within: float = 0.0


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
class Withdraw:
    """Have nobody find the servers of a step, of which a task died; answered by Withdrawn, soon and always."""

    step: str


@dataclass(frozen=True)
class Place:
    """Put spare nodes in place of those of a step that are down; answered by Placed."""

    step: str


@dataclass(frozen=True)
class Restarting:
    """Tell that a step is started again, the `attempt`th time of `most`, `pause` seconds later; `reason` says why."""

    step: str
    attempt: int
    most: int
    reason: str
    pause: float


@dataclass(frozen=True)
class WrittenOff:
    """Tell that the run goes on without a step; `reason` is a sentence."""

    step: str
    reason: str


@dataclass(frozen=True)
class Drained:
    """Tell that a server has left as it was asked to; `reason` says so, or that it had to be killed."""

    step: str
    reason: str


@dataclass(frozen=True)
class Refuse:
    """Tell why a request is not followed, in a sentence."""

    request: str
    reason: str


@dataclass(frozen=True)
class Announce:
    """Tell the world the state of the run; `behind` are the servers that kept it from being ready."""

    state: str
    detail: str
    behind: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """Kill what is left, remove the node-local folder, on the other nodes too if `elsewhere`; answered by Swept."""

    elsewhere: bool = True


@dataclass(frozen=True)
class Conclude:
    """Write the verdict."""

    outcome: Outcome


@dataclass(frozen=True)
class Finish:
    """The supervisor may go, with this exit code."""

    exit_code: int


Action = Union[
    Resolve,
    Start,
    Probe,
    TestPort,
    Examine,
    TellStalled,
    FindKilled,
    Signal,
    SignalTask,
    Kill,
    Withdraw,
    Place,
    Restarting,
    WrittenOff,
    Drained,
    Refuse,
    Announce,
    Sweep,
    Conclude,
    Finish,
    handover.Succeed,
    handover.HandOver,
    handover.CallOff,
    renewal.Renew,
]
