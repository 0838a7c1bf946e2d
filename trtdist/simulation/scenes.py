"""Draws lives from seeds: how every step behaves, what goes wrong and when, and what the supervisor allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

from trtdist.plan import Plan, Step
from trtdist.simulation import plans
from trtdist.simulation.facts import Fault, Scene, Temper
from trtdist.supervisor.facts import Settings

__all__ = ["quiet", "scene"]

NEVER = float("inf")
_UNTIL = 200.0
_MANY = 0.02
_ENDS = (0, 1, 1, 3, 137, 139, 143, -6, -9, -9, -11, -15)
_GRACES = (0.0, 1.0, 5.0, NEVER)


def scene(seed: int, plan: Plan | None = None) -> Scene:
    """A life of a random deployment, or of `plan`, in which anything may go wrong."""
    random, other = Random(2 * seed), Random(f"lasting {seed}")
    planned = plans.small(random) if plan is None else plan
    lasts = plan is None and other.random() < 0.5
    if lasts:
        planned = plans.lasting(other, planned)
    tempers = {step.name: _temper(random, step) for step in planned.steps}
    for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
        step = random.choice(planned.steps)
        tempers[step.name] = _troubled(random, step, tempers[step.name])
    slurm = planned.allocation.nodes > 1 or random.random() < 0.5
    faults = (*_faults(random, planned, slurm), *_hand_over(Random(f"hand-over {seed}"), slurm))
    faults = tuple(sorted((*faults, *_hangs(Random(f"hangs {seed}"), planned)), key=lambda fault: fault.at))
    if lasts:
        faults = tuple(sorted((*faults, *_more_faults(other, planned)), key=lambda fault: fault.at))
        tempers = _worn(other, tempers, faults)
    made = _scene(random, seed, planned, tempers, faults, slurm)
    return replace(made, settings=replace(made.settings, forgive=other.uniform(5.0, 100.0)))


def quiet(seed: int, plan: Plan | None = None) -> Scene:
    """A life in which nothing goes wrong: it comes up, and is stopped."""
    random = Random(2 * seed)
    planned = plans.small(random) if plan is None else plan
    tempers = {step.name: _well(random, step) for step in planned.steps}
    return _scene(random, seed, planned, tempers, (), planned.allocation.nodes > 1, Settings())


def _scene(
    random: Random,
    seed: int,
    plan: Plan,
    tempers: dict[str, Temper],
    faults: tuple[Fault, ...],
    slurm: bool,
    settings: Settings | None = None,
) -> Scene:
    nodes = plan.allocation.nodes
    # The head node sees its own files at once, and those of others a little late, at times seconds late.
    lags = [0.0] + [random.uniform(0.0, 2.0 if random.random() < 0.1 else 0.05) for _ in range(nodes - 1)]
    ahead = [0.0] + [random.uniform(-0.005, 0.005) for _ in range(nodes - 1)]
    drawn = _settings(random) if settings is None else settings
    unresolved = settings is None and random.random() < 0.01
    return Scene(seed, plan, drawn, slurm, tempers, faults, tuple(lags), tuple(ahead), unresolved, _UNTIL)


def _settings(random: Random) -> Settings:
    return Settings(
        ready_timeout=random.uniform(20.0, 120.0),
        service_timeout=random.uniform(3.0, 30.0),
        start_timeout=random.uniform(5.0, 60.0),
        grace=random.uniform(1.0, 10.0),
        failure_grace=random.uniform(0.2, 1.2),
    )


def _well(random: Random, step: Step) -> Temper:
    up = _spread(random, 0.05, 0.5) if step.kind != "workers" else _spread(random, 0.5, 12.0)
    return Temper(_spread(random, 0.02, 1.0), up, _spread(random, 0.01, 0.8), random.uniform(0.005, 0.2))


def _temper(random: Random, step: Step) -> Temper:
    """Mostly well; some do not heed a signal, and a few not even KILL."""
    well = _well(random, step)
    stops = NEVER if random.random() < 0.08 else well.stops
    dies = NEVER if random.random() < _MANY else well.dies
    return Temper(well.begins, well.up, stops, dies)


def _troubled(random: Random, step: Step, temper: Temper) -> Temper:
    """A step that does not come up as it should."""
    trouble = random.choice(("begins", "up", "taken", "launch", "task", "exits"))
    begins = random.choice((NEVER, random.uniform(1.0, 70.0))) if trouble == "begins" else temper.begins
    up = random.choice((NEVER, random.uniform(1.0, 130.0))) if trouble == "up" else temper.up
    taken = random.randint(1, 6) if trouble == "taken" and step.kind == "service" else 0
    refusal = trouble if trouble in ("launch", "task") else ""
    exits = random.choice((0, 1, 134)) if trouble == "exits" else None
    return Temper(begins, up, temper.stops, temper.dies, taken, refusal, exits)


def _spread(random: Random, low: float, high: float) -> float:
    """Even on a logarithmic scale, as times of start-up and end are."""
    return math.exp(random.uniform(math.log(low), math.log(high)))


def _faults(random: Random, plan: Plan, slurm: bool) -> tuple[Fault, ...]:
    """None to four faults: at any time, or right after another one."""
    kinds = [*_ANYWHERE, *(_ON_SLURM if slurm else ())]
    found: list[Fault] = []
    for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3, 4))):
        at = random.choice((_spread(random, 0.01, 3.0), random.uniform(0.0, 60.0), random.uniform(0.0, 150.0)))
        if found and random.random() < 0.6:
            at = found[-1].at + _spread(random, 0.001, 5.0)
        found.append(_DRAW[random.choice(kinds)](random, plan, at))
    return tuple(sorted(found, key=lambda fault: fault.at))


def _more_faults(random: Random, plan: Plan) -> list[Fault]:
    """Deaths of one process again and again, and servers that are asked to leave."""
    deaths = _DRAW["task dies"](random, plan, 0.0)
    times = sorted(random.uniform(0.0, 150.0) for _ in range(random.choice((0, 0, 1, 2, 3, 5))))
    leaving = [_DRAW["drain"](random, plan, random.uniform(1.0, 150.0)) for _ in range(random.choice((0, 0, 1, 2)))]
    return [replace(deaths, at=at, end=random.choice(_ENDS)) for at in times] + leaving


def _worn(random: Random, tempers: dict[str, Temper], faults: tuple[Fault, ...]) -> dict[str, Temper]:
    """Some do not come back as they came up, and some of those that are asked to leave do not even heed KILL."""
    later = {name: random.choice((NEVER, random.uniform(1.0, 130.0))) for name in tempers if random.random() < 0.15}
    leaving = {fault.target for fault in faults if fault.kind == "drain" and random.random() < 0.3}
    tempers = {name: replace(temper, later=later.get(name)) for name, temper in tempers.items()}
    deaf = {name: replace(tempers[name], stops=NEVER, dies=NEVER) for name in leaving if name in tempers}
    return {**tempers, **deaf}


def _leaving(random: Random, plan: Plan, at: float) -> Fault:
    return Fault(at, "drain", random.choice(plan.servers).name, length=random.choice(_GRACES))


def _hand_over(random: Random, slurm: bool) -> tuple[Fault, ...]:
    """Some runs through Slurm are to be followed by another."""
    return (Fault(random.uniform(1.0, 90.0), "hand-over due"),) if slurm and random.random() < 0.4 else ()


def _hangs(random: Random, plan: Plan) -> tuple[Fault, ...]:
    """In some runs something is there and does nothing any more."""
    ranks = [f"{server.name}.{rank.rank}" for server in plan.servers for rank in server.ranks]
    others = [step.name for step in plan.steps if step.kind in ("service", "router", "front")]
    times = [random.uniform(10.0, 150.0) for _ in range(random.choice((0, 0, 1, 2)))]
    return tuple(Fault(at, "task hangs", random.choice((*ranks, *others))) for at in times)


def _task(kind: str) -> Callable[[Random, Plan, float], Fault]:
    def draw(random: Random, plan: Plan, at: float) -> Fault:
        step = random.choice(plan.steps)
        ranks = [f"{name}.{rank.rank}" for name in step.servers for rank in plan.server(name).ranks]
        return Fault(at, kind, random.choice(ranks or [step.name]), end=random.choice(_ENDS))

    return draw


def _step(random: Random, plan: Plan, at: float) -> Fault:
    return Fault(at, "launcher killed", random.choice(plan.steps).name, end=-9)


def _node(kind: str) -> Callable[[Random, Plan, float], Fault]:
    def draw(random: Random, plan: Plan, at: float) -> Fault:
        # The head node takes the supervisor along.
        others = range(1, plan.allocation.nodes)
        target = str(random.choice(others)) if others else ""
        return Fault(at, kind, target, length=_spread(random, 0.5, 30.0))

    return draw


def _wish(kind: str) -> Callable[[Random, Plan, float], Fault]:
    return lambda random, plan, at: Fault(at, kind, length=random.choice(_GRACES))


def _outside(kind: str) -> Callable[[Random, Plan, float], Fault]:
    return lambda random, plan, at: Fault(at, kind, length=random.uniform(0.5, 20.0))


_DRAW: dict[str, Callable[[Random, Plan, float], Fault]] = {
    "task dies": _task("task dies"),
    "shim killed": _task("shim killed"),
    "launcher killed": _step,
    "down": _wish("down"),
    "interrupt": _wish("interrupt"),
    "stray signal": _outside("stray signal"),
    "disk full": _outside("disk full"),
    "drain": _leaving,
    "node dies": _node("node dies"),
    "network cut": _node("network cut"),
    "scancel": _outside("scancel"),
    "time limit": _outside("time limit"),
    "preemption": _outside("preemption"),
    "limit near": _outside("limit near"),
    "controller away": _outside("controller away"),
}
_ANYWHERE = (
    "task dies", "task dies", "task dies", "shim killed", "launcher killed", "down", "interrupt", "stray signal",
    "disk full",
)  # fmt: skip
_ON_SLURM = (
    "task dies", "node dies", "network cut", "scancel", "time limit", "preemption", "limit near", "controller away",
)  # fmt: skip
