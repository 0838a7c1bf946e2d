"""A small cluster in virtual time: performs the machine's actions and answers with what a real one would say."""

from __future__ import annotations

import heapq
import itertools
import signal
from dataclasses import dataclass, field

from trtdist.plan import Allocation, Canary, Plan, Rank, Server, Step
from trtdist.supervisor import facts, messages
from trtdist.supervisor.machine import advance, next_deadline
from trtdist.supervisor.state import OVER, initial

NEVER = float("inf")
EPOCH = 1_000_000.0


def make_plan(launch: str = "mpi_world", sizes: tuple[int, ...] = (2, 1)) -> Plan:
    """One context server, then generation servers, of these sizes."""
    servers = []
    world = 0
    for index, size in enumerate(sizes):
        ranks = tuple(Rank(world + rank, rank, 0, world + rank, rank == 0) for rank in range(size))
        role, name = ("context", "ctx.0") if index == 0 else ("generation", f"gen.{index - 1}")
        servers.append(Server(name, role, 0, size, 1, 1, 0.1, ranks))
        world += size
    steps = [Step(1, "nats", "service", 2, 1, (0,)), Step(2, "etcd", "service", 2, 1, (0,))]
    if launch == "mpi_world":
        steps.append(Step(3, "workers", "workers", 1, world, (0,) * world, tuple(s.name for s in servers)))
    else:
        steps += [Step(3 + i, s.name, "workers", 1, s.size, (0,) * s.size, (s.name,)) for i, s in enumerate(servers)]
    number = len(steps) + 1
    steps += [Step(number, "router", "router", 0, 1, (0,)), Step(number + 1, "canary", "canary", 0, 1, (0,))]
    allocation = Allocation(1, world, world, 1, 0)
    everything = (allocation, tuple(servers), tuple(steps), ())
    canary = Canary("prompt", 4, 0.0, 60.0)
    return Plan("sim", "m", "reference", "trtdist", launch, "round_robin", world, *everything, canary)


@dataclass(frozen=True)
class Behaviour:
    """How one step behaves, in seconds: NEVER for what it does not do."""

    up_after: float = 0.05
    stops_after: float = 0.05
    killed_after: float = 0.01
    dies_at: float = NEVER
    ports_taken: int = 0
    begins_after: float = 0.01


@dataclass
class Fault:
    """Something done to the run at a time: a name of FAULTS, and on whom."""

    at: float
    kind: str
    target: str = ""
    grace: float | None = None


@dataclass(frozen=True)
class OfLife:
    """An event about one life of a step, which nobody hears once the step was started again."""

    step: str
    life: int
    event: messages.Input


@dataclass
class Cluster:
    """Runs one life cycle; `log` keeps every action with its time."""

    plan: Plan
    settings: facts.Settings = field(default_factory=facts.Settings)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    sweep_left: tuple[str, ...] = ()
    resolve_after: float = 0.01

    def __post_init__(self) -> None:
        self.state = initial(self.plan, self.settings)
        self.now = 0.0
        self.queue: list[tuple[float, int, messages.Input | OfLife]] = []
        self.order = itertools.count()
        self.log: list[tuple[float, messages.Action]] = []
        self.running: dict[str, list[str]] = {}
        self.epochs: dict[str, int] = {}
        self.killed: set[str] = set()
        self.calls = 0

    def run(self, faults: list[Fault], until: float = 10_000.0) -> None:
        """Begin, inject the faults, and go on until it is over."""
        self.later(0.0, messages.Begin())
        pending = sorted(faults, key=lambda fault: fault.at)
        while self.state.phase != OVER and self.now < until:
            deadline = next_deadline(self.state)
            times = [self.queue[0][0] if self.queue else NEVER, NEVER if deadline is None else deadline]
            times.append(pending[0].at if pending else NEVER)
            if min(times) > until:
                return
            self.now = max(self.now, min(times))
            if pending and pending[0].at <= self.now:
                self.inject(pending.pop(0))
            elif self.queue and self.queue[0][0] <= self.now:
                self.feed(heapq.heappop(self.queue)[2])
            else:
                self.feed(messages.Tick())

    def later(self, delay: float, event: messages.Input | OfLife) -> None:
        """An event after a while."""
        if delay != NEVER:
            heapq.heappush(self.queue, (self.now + delay, next(self.order), event))

    def feed(self, event: messages.Input | OfLife) -> None:
        """One event now."""
        if isinstance(event, OfLife):
            if event.life != self.epochs.get(event.step):
                return
            event = event.event
        if isinstance(event, messages.StepEnded) and event.step not in self.running:
            return
        if isinstance(event, messages.StepEnded):
            self.running.pop(event.step)
            if event.signal is not None or (event.code or 0) > 128:
                self.killed.add(event.step)
        self.calls += 1
        self.state, actions = advance(self.state, event, self.now)
        for action in actions:
            self.log.append((self.now, action))
            getattr(self, f"do_{type(action).__name__.lower()}", lambda action: None)(action)

    def behaviour(self, step: str) -> Behaviour:
        """How a step behaves."""
        return self.behaviours.get(step, Behaviour())

    def tasks(self, step: str) -> list[str]:
        """The names of a step's tasks."""
        servers = self.plan.step(step).servers
        named = [f"{name}.{rank.rank}" for name in servers for rank in self.plan.server(name).ranks]
        return named or [step]

    def end(self, step: str, delay: float, code: int | None, number: int | None) -> None:
        """A step ends after a while, its tasks just before."""
        if delay == NEVER:
            return
        at = EPOCH + self.now + delay
        life = self.epochs[step]
        for task in self.tasks(step):
            self.later(delay, OfLife(step, life, messages.TaskEnded(step, task, code, number, at)))
        self.later(delay, OfLife(step, life, messages.StepEnded(step, code, number, at)))

    def do_resolve(self, action: messages.Resolve) -> None:
        self.later(self.resolve_after, messages.Resolved(action.service))

    def do_start(self, action: messages.Start) -> None:
        step, behaviour = action.step, self.behaviour(action.step)
        starts = self.epochs[step] = self.epochs.get(step, 0) + 1
        self.running[step] = self.tasks(step)
        if starts <= behaviour.ports_taken:
            self.end(step, 0.02, 1, None)
            return
        for task in self.tasks(step):
            self.later(behaviour.begins_after, messages.TaskBegan(step, task))
        if self.plan.step(step).kind == "service":
            self.later(behaviour.up_after, messages.Healthy(step, f"sim://{step}"))
        if self.plan.step(step).kind == "workers":
            for server in self.plan.step(step).servers:
                self.later(behaviour.up_after, messages.Reached(server, "engine"))
        if starts > 1:
            for name in self.plan.step(step).servers or (step,):
                self.later(behaviour.up_after + 0.2, messages.Reached(name, "canary"))
        if self.plan.step(step).kind == "canary":
            self.later(behaviour.up_after + 0.2, messages.CameReady())
            if not self.plan.step(step).restarts:
                self.end(step, behaviour.up_after + 0.21, 0, None)
        if behaviour.dies_at != NEVER:
            self.end(step, behaviour.dies_at, 1, None)

    def do_testport(self, action: messages.TestPort) -> None:
        # What outlives its shim for a moment still listens.
        taken = self.epochs[action.step] <= self.behaviour(action.step).ports_taken or action.step in self.killed
        self.later(0.001, messages.PortTested(action.step, taken))

    def do_signal(self, action: messages.Signal) -> None:
        self.end(action.step, self.behaviour(action.step).stops_after, None, action.number)

    def do_withdraw(self, action: messages.Withdraw) -> None:
        self.later(0.01, messages.Withdrawn(action.step))

    def do_place(self, action: messages.Place) -> None:
        self.later(0.05, messages.Placed(action.step))

    def do_kill(self, action: messages.Kill) -> None:
        self.end(action.step, self.behaviour(action.step).killed_after, None, int(signal.SIGKILL))

    def do_sweep(self, action: messages.Sweep) -> None:
        self.later(0.02, messages.Swept(self.sweep_left))

    def inject(self, fault: Fault) -> None:
        """Do what a fault says, at this instant."""
        at = EPOCH + self.now
        if fault.kind == "kill_step" and fault.target in self.running:
            self.end(fault.target, 0.0, None, int(signal.SIGKILL))
        elif fault.kind == "leave" and fault.target in self.running:
            self.end(fault.target, 0.0, 0, None)
        elif fault.kind == "kill_task":
            step = next((s.name for s in self.plan.steps if fault.target in self.tasks(s.name)), "")
            if step in self.running:
                self.feed(messages.TaskEnded(step, fault.target, None, int(signal.SIGKILL), at))
                self.end(step, 0.2, 137, None)
        elif fault.kind == "kill_shim":
            step = next((s.name for s in self.plan.steps if fault.target in self.tasks(s.name)), "")
            if step in self.running:
                self.later(0.05, OfLife(step, self.epochs[step], messages.TaskGone(step, fault.target, at)))
                self.end(step, 0.02, 143, None)
        elif fault.kind == "down":
            self.feed(messages.StopAsked(False, fault.grace, "asked to stop"))
        elif fault.kind == "interrupt":
            self.feed(messages.StopAsked(True, fault.grace, "interrupted"))
        elif fault.kind == "everyone":
            for step in list(self.running):
                if self.plan.step(step).kind != "service":
                    self.end(step, self.behaviour(step).stops_after, None, int(signal.SIGTERM))
            self.feed(messages.EveryoneTerminated("the job was ended"))
        elif fault.kind == "time limit":
            self.feed(messages.TimeLimit("the time limit is near"))
        elif fault.kind == "drain":
            self.feed(messages.DrainAsked("request", fault.target, fault.grace))
        elif fault.kind == "signal":
            self.feed(messages.SignalCame())
        elif fault.kind == "broke":
            self.feed(messages.Broke("the disk is full"))

    def actions(self, kind: type) -> list[messages.Action]:
        """All actions of a kind, in order."""
        return [action for _, action in self.log if isinstance(action, kind)]

    @property
    def outcome(self) -> facts.Outcome:
        """The one verdict."""
        (verdict,) = self.actions(messages.Conclude)
        assert isinstance(verdict, messages.Conclude)
        return verdict.outcome
