"""What the supervisor knows about a run: frozen, changed only by `machine.advance`. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from trtdist.plan import Plan, Step
from trtdist.supervisor.facts import Death, Outcome, Settings
from trtdist.supervisor.overlay import Overlay

__all__ = [
    "DONE",
    "ENDED",
    "HEALTHY",
    "KILLED",
    "LOST",
    "NEVER",
    "NEW",
    "OVER",
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
    "State",
    "StepState",
    "Stop",
    "initial",
]

# Phases of a run.
NEW, RESOLVING, STARTING, READY, STOPPING, SWEEPING, OVER = (
    "new", "resolving", "starting", "ready", "stopping", "sweeping", "over",
)  # fmt: skip
# Phases of a step; a service that died before it was healthy is TESTING (its port), then perhaps RESOLVING again.
WAITING, RUNNING, HEALTHY, TESTING, DONE, ENDED, LOST = (
    "waiting", "running", "healthy", "testing", "done", "ended", "lost",
)  # fmt: skip
# How far the stop of a step is that is believed to run.
UNTOLD, TOLD, KILLED = "untold", "told", "killed"
NEVER = float("inf")


@dataclass(frozen=True)
class StepState:
    """Where one step is.

    `start_by` is when one of its tasks must run (None once one does); `deadline` is when a service must be healthy;
    `death` what its task told before its first process was reaped;
    `signalled` the last signal sent to it (0 for none); `kill_until` is set once it was killed.
    """

    step: Step
    phase: str = WAITING
    starts: int = 0
    start_by: float | None = None
    deadline: float | None = None
    death: Death | None = None
    signalled: int = 0
    kill_until: float | None = None

    @property
    def alive(self) -> bool:
        """Whether its first process is believed to run."""
        return self.phase in (RUNNING, HEALTHY)

    @property
    def standing(self) -> str:
        """What counts for the rules: how far its stop is when it is alive, else its phase."""
        if not self.alive:
            return self.phase
        if self.kill_until is not None:
            return KILLED
        return TOLD if self.signalled else UNTOLD


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
class State:
    """All that decisions rest on.

    So that a decision costs the same with any number of steps, they are counted by tier and standing in `tally`, and
    `begin_by` and `kill_by` bound what the steps that are alive say of `start_by` and `kill_until`: none is earlier.
    """

    settings: Settings
    steps: Overlay[StepState]
    heads: tuple[str, ...]
    servers: tuple[str, ...]
    phase: str = NEW
    ready_by: float | None = None
    first: Death | None = None
    settle_until: float | None = None
    doubt_until: float = 0.0
    rungs: Overlay[str] = field(default_factory=lambda: Overlay({}))
    stop: Stop | None = None
    stops_asked: int = 0
    announced: str = ""
    concluded: bool = False
    tally: Mapping[tuple[int, str], int] = field(default_factory=dict)
    begin_by: float = NEVER
    kill_by: float = NEVER

    @property
    def ending(self) -> bool:
        """Whether a stop has begun, so that nothing may be started any more."""
        return self.phase in (STOPPING, SWEEPING, OVER)

    def with_step(self, step: StepState) -> State:
        """The state with one step changed."""
        before = self.steps[step.step.name]
        tally = _counted(_counted(self.tally, before, -1), step, 1)
        begin_by = min(self.begin_by, step.start_by) if step.start_by is not None and step.alive else self.begin_by
        kill_by = min(self.kill_by, step.kill_until) if step.kill_until is not None and step.alive else self.kill_by
        steps = self.steps.having(step.step.name, step)
        return replace(self, steps=steps, tally=tally, begin_by=begin_by, kill_by=kill_by)

    def looked_through(self) -> State:
        """The state with `begin_by` and `kill_by` as the steps say now, for when one of them has passed."""
        alive = [step for step in self.steps.values() if step.alive]
        begin_by = min((step.start_by for step in alive if step.start_by is not None), default=NEVER)
        kill_by = min((step.kill_until for step in alive if step.kill_until is not None), default=NEVER)
        return replace(self, begin_by=begin_by, kill_by=kill_by)

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
    heads = tuple(name for name, step in steps.items() if step.step.kind == "service")
    tally: Mapping[tuple[int, str], int] = {}
    for step in steps.values():
        tally = _counted(tally, step, 1)
    return State(settings, Overlay(steps), heads, tuple(server.name for server in plan.servers), tally=tally)


def _counted(tally: Mapping[tuple[int, str], int], step: StepState, more: int) -> Mapping[tuple[int, str], int]:
    key = (step.step.tier, step.standing)
    return {**tally, key: tally.get(key, 0) + more}
