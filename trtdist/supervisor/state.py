"""What the supervisor knows about a run: frozen, changed only by `machine.advance`. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from trtdist.plan import Plan, Step
from trtdist.supervisor.facts import Death, Outcome, Settings
from trtdist.supervisor.messages import Unanswered
from trtdist.supervisor.overlay import Overlay

__all__ = [
    "DONE",
    "ENDED",
    "HEALTHY",
    "KILLED",
    "KILL_PATIENCE",
    "LOST",
    "NEVER",
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
    "TOLD",
    "UNTOLD",
    "WAITING",
    "Fall",
    "Handover",
    "Progress",
    "Renewing",
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
# How far the stop of a step is that is believed to run.
UNTOLD, TOLD, KILLED = "untold", "told", "killed"
NEVER = float("inf")
# How often `Settings.kill_wait` what does not end after KILL is waited for while the run goes on.
KILL_PATIENCE = 6.0


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

    @property
    def awaited(self) -> float | None:
        """When one of its tasks must run, as far as that is awaited."""
        return self.start_by if self.alive and self.fall is None else None

    @property
    def apart(self) -> bool:
        """Whether it fell, was started again, or was asked to leave."""
        return self.fall is not None or self.restarts > 0 or self.drained or self.drain_until is not None

    @property
    def standing(self) -> str:
        """What counts for the rules: how far its stop is when it is alive, else its phase."""
        if not self.alive:
            return self.phase
        if self.kill_until is not None:
            return KILLED
        return TOLD if self.signalled else UNTOLD


@dataclass(frozen=True)
class Handover:
    """The run that is to take over before the time limit, called `name` in a sentence once Slurm has its job.

    One is asked for at `ask_at`, `attempts` were so far, `awaited` says that one is on its way; `problem` is why the
    last one did not come. Once it has taken over this run leaves, from `leave_at` until `leave_by`. `wanted` says that
    it shall come up although this run was interrupted.
    """

    name: str = ""
    ask_at: float | None = None
    attempts: int = 0
    awaited: bool = False
    problem: str = ""
    leave_at: float | None = None
    leave_by: float = 0.0
    wanted: bool = False


@dataclass(frozen=True)
class Renewing:
    """When the certificates of the run are looked at; None while they are, and for a run without. `stale` says that
    NATS has still those of before."""

    look_at: float | None = None
    stale: bool = False


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
    """When each task of a server last moved, how far its log says it is, what it was seen to do, when all were last
    asked, and which servers were called stalled."""

    moved: Overlay[float] = field(default_factory=lambda: Overlay({}))
    far: Mapping[str, int] = field(default_factory=dict)
    doing: Mapping[str, str] = field(default_factory=dict)
    asked: float | None = None
    told: frozenset[str] = frozenset()


@dataclass(frozen=True)
class State:
    """All that decisions rest on.

    `tasks` has those of each of `servers`, `roles` its role; `noted` are the deaths so far, `first` is the one that
    counts as the first. `spares` says whether there are nodes that nothing is placed on, `canary_stays` is the plan's;
    `condition` is the state of a ready run that was told last, with its detail.

    So that a decision costs the same with any number of steps, they are counted by tier and standing in `tally`,
    `begin_by` and `kill_by` bound what the steps that are alive say of `start_by` and `kill_until` (none is earlier),
    and `apart` names those that are not as they are in a run in which nothing happens.
    """

    settings: Settings
    steps: Overlay[StepState]
    heads: tuple[str, ...]
    servers: tuple[str, ...]
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    spares: bool = False
    canary_stays: bool = False
    phase: str = NEW
    ready_by: float | None = None
    noted: tuple[Death, ...] = ()
    first: Death | None = None
    settle_until: float | None = None
    doubt_until: float = 0.0
    rungs: Overlay[str] = field(default_factory=lambda: Overlay({}))
    progress: Progress = field(default_factory=Progress)
    handover: Handover = field(default_factory=Handover)
    renewing: Renewing = field(default_factory=Renewing)
    stop: Stop | None = None
    stops_asked: int = 0
    announced: str = ""
    condition: tuple[str, str] = ("READY", "")
    concluded: bool = False
    # The last canary that failed, by who was to generate its answer.
    unanswered: Mapping[str, Unanswered] = field(default_factory=dict)
    tally: Mapping[tuple[int, str], int] = field(default_factory=dict)
    begin_by: float = NEVER
    kill_by: float = NEVER
    apart: Mapping[str, None] = field(default_factory=dict)

    @property
    def ending(self) -> bool:
        """Whether a stop has begun, so that nothing may be started any more."""
        return self.phase in (STOPPING, SWEEPING, OVER)

    def with_step(self, step: StepState) -> State:
        """The state with one step changed."""
        name = step.step.name
        tally = _counted(_counted(self.tally, self.steps[name], -1), step, 1)
        begin_by = self.begin_by if step.awaited is None else min(self.begin_by, step.awaited)
        kill_by = self.kill_by if step.kill_until is None or not step.alive else min(self.kill_by, step.kill_until)
        apart = self.apart
        if step.apart != (name in apart):
            apart = {**apart, name: None} if step.apart else {other: None for other in apart if other != name}
        steps = self.steps.having(name, step)
        return replace(self, steps=steps, tally=tally, begin_by=begin_by, kill_by=kill_by, apart=apart)

    def looked_through(self) -> State:
        """The state with `begin_by` and `kill_by` as the steps say now, for when one of them has passed."""
        steps = self.steps.values()
        begin_by = min((step.awaited for step in steps if step.awaited is not None), default=NEVER)
        kill_by = min((step.kill_until for step in steps if step.alive and step.kill_until is not None), default=NEVER)
        return replace(self, begin_by=begin_by, kill_by=kill_by)

    def fallen(self) -> list[StepState]:
        """The steps that are `apart`, in the order of the plan."""
        return sorted((self.steps[name] for name in self.apart), key=lambda step: step.step.number)

    def count(self, tier: int, *standings: str) -> int:
        """How many steps of a tier have one of these standings."""
        return sum(self.tally.get((tier, standing), 0) for standing in standings)

    def waits(self) -> bool:
        """Whether a step waits to be started."""
        return any(count for (_, standing), count in self.tally.items() if standing == WAITING)

    def tier(self, number: int) -> list[StepState]:
        """The steps of a tier whose first process is believed to run."""
        return [step for step in self.steps.values() if step.alive and step.step.tier == number]

    def services(self) -> list[StepState]:
        """The head services."""
        return [self.steps[name] for name in self.heads]

    def programs(self) -> list[StepState]:
        """All steps that are no head service."""
        return [step for step in self.steps.values() if step.step.kind != "service"]


def initial(plan: Plan, settings: Settings) -> State:
    """The state before anything happened."""
    steps = {step.name: StepState(step) for step in sorted(plan.steps, key=lambda step: step.number)}
    used = 1 + max((node for step in plan.steps for node in step.nodes), default=0)
    roles = {server.name: server.role for server in plan.servers}
    heads = tuple(name for name, step in steps.items() if step.step.kind == "service")
    tally: Mapping[tuple[int, str], int] = {}
    for step in steps.values():
        tally = _counted(tally, step, 1)
    tasks = {server.name: tuple(f"{server.name}.{rank.rank}" for rank in server.ranks) for server in plan.servers}
    spares = plan.allocation.nodes > used
    known = (Overlay(steps), heads, tuple(roles), tasks, roles, spares, plan.canary_stays)
    return State(settings, *known, tally=tally)


def _counted(tally: Mapping[tuple[int, str], int], step: StepState, more: int) -> Mapping[tuple[int, str], int]:
    key = (step.step.tier, step.standing)
    return {**tally, key: tally.get(key, 0) + more}
