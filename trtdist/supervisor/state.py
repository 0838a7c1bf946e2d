"""What the supervisor knows about a run: frozen, changed only by `machine.advance`. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from trtdist.plan import Plan, Step
from trtdist.supervisor.facts import Death, Outcome, Settings
from trtdist.supervisor.messages import Unanswered

__all__ = [
    "DONE",
    "ENDED",
    "HEALTHY",
    "LOST",
    "NEW",
    "OVER",
    "PAUSED",
    "PLACING",
    "READY",
    "RESOLVING",
    "RUNNING",
    "STARTING",
    "STOPPING",
    "SWEEPING",
    "TESTING",
    "WAITING",
    "Fall",
    "Progress",
    "State",
    "StepState",
    "Stop",
    "initial",
]

# Phases of a run.
NEW, RESOLVING, STARTING, READY, STOPPING, SWEEPING, OVER = (
    "new", "resolving", "starting", "ready", "stopping", "sweeping", "over",
)  # fmt: skip
# Phases of a step; a service that died before it was healthy is TESTING (its port), then perhaps RESOLVING again. What
# is to be started again is PAUSED, perhaps PLACING (on other nodes), then WAITING as at first.
WAITING, RUNNING, HEALTHY, TESTING, PAUSED, PLACING, DONE, ENDED, LOST = (
    "waiting", "running", "healthy", "testing", "paused", "placing", "done", "ended", "lost",
)  # fmt: skip


@dataclass(frozen=True)
class Fall:
    """A death that the run may survive.

    Deaths settle `until` then, and the earliest counts; `restart_at` is known after that, None for one that is not
    started again. `withdrawn` says that nobody finds its servers any more.
    """

    death: Death
    until: float
    decided: bool = False
    restart_at: float | None = None
    withdrawn: bool = False


@dataclass(frozen=True)
class StepState:
    """Where one step is.

    `start_by` is when one of its tasks must run (None once one does); `deadline` is when a service must be healthy, or
    what was started again be back; `death` what its task told before its first process was reaped;
    `signalled` the last signal sent to it (0 for none); `kill_until` is set once it was killed.

    `fall` is set from its death until it is started again, or for good. `restarts` counts those in a row, of which
    `cause` was the first death; `back` is since when it serves again. `drain_until` is set once it was asked to leave.
    """

    step: Step
    phase: str = WAITING
    starts: int = 0
    start_by: float | None = None
    deadline: float | None = None
    death: Death | None = None
    signalled: int = 0
    kill_until: float | None = None
    fall: Fall | None = None
    restarts: int = 0
    cause: Death | None = None
    back: float | None = None
    drain_until: float | None = None
    drained: bool = False

    @property
    def alive(self) -> bool:
        """Whether its first process is believed to run."""
        return self.phase in (RUNNING, HEALTHY)


@dataclass(frozen=True)
class Stop:
    """A stop under way: `tiers` are those still to end, the first of them now, until `tier_deadline`.

    `everyone` says that the other side has sent TERM to every task already.
    """

    outcome: Outcome
    deadline: float
    tiers: tuple[int, ...]
    tier_deadline: float
    everyone: bool = False


@dataclass(frozen=True)
class Progress:
    """When each task of a server last moved, what it was seen to do, when all were last asked, and which servers were
    called stalled."""

    moved: Mapping[str, float] = field(default_factory=dict)
    doing: Mapping[str, str] = field(default_factory=dict)
    asked: float | None = None
    told: frozenset[str] = frozenset()


@dataclass(frozen=True)
class State:
    """All that decisions rest on.

    `tasks` has those of each of `servers`, `roles` its role; `noted` are the deaths so far, `first` is the one that
    counts as the first. `spares` says whether there are nodes that nothing is placed on; `condition` is the state of a
    ready run that was told last, with its detail.
    """

    settings: Settings
    steps: Mapping[str, StepState]
    servers: tuple[str, ...]
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    spares: bool = False
    phase: str = NEW
    ready_by: float | None = None
    noted: tuple[Death, ...] = ()
    first: Death | None = None
    settle_until: float | None = None
    doubt_until: float = 0.0
    rungs: Mapping[str, str] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    stop: Stop | None = None
    stops_asked: int = 0
    announced: str = ""
    condition: tuple[str, str] = ("READY", "")
    concluded: bool = False
    # The last canary that failed, by who was to generate its answer.
    unanswered: Mapping[str, Unanswered] = field(default_factory=dict)

    @property
    def ending(self) -> bool:
        """Whether a stop has begun, so that nothing may be started any more."""
        return self.phase in (STOPPING, SWEEPING, OVER)

    def with_step(self, step: StepState) -> State:
        """The state with one step changed."""
        return replace(self, steps={**self.steps, step.step.name: step})

    def tier(self, number: int) -> list[StepState]:
        """The steps of a tier whose first process is believed to run."""
        return [step for step in self.steps.values() if step.alive and step.step.tier == number]

    def services(self) -> list[StepState]:
        """The head services."""
        return [step for step in self.steps.values() if step.step.kind == "service"]

    def programs(self) -> list[StepState]:
        """All steps that are no head service."""
        return [step for step in self.steps.values() if step.step.kind != "service"]


def initial(plan: Plan, settings: Settings) -> State:
    """The state before anything happened."""
    steps = {step.name: StepState(step) for step in sorted(plan.steps, key=lambda step: step.number)}
    used = 1 + max((node for step in plan.steps for node in step.nodes), default=0)
    roles = {server.name: server.role for server in plan.servers}
    tasks = {server.name: tuple(f"{server.name}.{rank.rank}" for rank in server.ranks) for server in plan.servers}
    return State(settings, steps, tuple(roles), tasks, roles, spares=plan.allocation.nodes > used)
