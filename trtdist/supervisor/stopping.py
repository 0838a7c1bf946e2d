"""The two stops: ours, tier by tier, and the one that reached everything at once. Pure. Standard library, Python 3.9.

Each tier gets an equal share of the time that is left, and all of it that is beyond the usual grace; what has not gone
by then is killed. Another request only shortens the time.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace

from trtdist.supervisor import deaths
from trtdist.supervisor.facts import Outcome
from trtdist.supervisor.messages import (
    Action,
    Announce,
    Conclude,
    EveryoneTerminated,
    Finish,
    Kill,
    Signal,
    SignalTask,
    StopAsked,
    Sweep,
    Swept,
    TaskBegan,
    TimeLimit,
)
from trtdist.supervisor.state import (
    KILLED,
    LOST,
    NEVER,
    OVER,
    STOPPING,
    SWEEPING,
    TOLD,
    UNTOLD,
    State,
    StepState,
    Stop,
)

__all__ = ["RULES", "ask", "begin", "deadlines", "everyone", "finish", "greet", "time_is_up"]

Change = tuple[State, list[Action]]


def begin(state: State, outcome: Outcome, grace: float, now: float) -> Change:
    """Begin a stop that ends with `outcome` after at most `grace` seconds of patience."""
    tiers = tuple(sorted({step.step.tier for step in state.steps.values()}))
    stop = Stop(outcome, now + grace, tiers, 0.0)
    shown = "STOPPING" if outcome.state in ("STOPPED", "INTERRUPTED") else outcome.state
    state = replace(state, phase=STOPPING, stop=_share(state, stop, now), settle_until=None, announced=shown)
    return state, [Announce(shown, outcome.reason, outcome.behind)]


def ask(state: State, event: StopAsked, now: float) -> Change:
    """Somebody wants the end: begin our stop, or shorten the one under way."""
    asked = state.stops_asked + 1
    state = replace(state, stops_asked=asked)
    patience = (state.settings.grace, state.settings.hurried_grace, 0.0)
    grace = patience[min(asked, len(patience)) - 1] if event.grace is None else event.grace
    if state.stop is not None:
        deadline = min(state.stop.deadline, now + grace)
        return replace(state, stop=_share(state, replace(state.stop, deadline=deadline), now)), []
    if state.first is not None:
        return begin(state, deaths.failure(state.first), min(grace, state.settings.failure_grace), now)
    outcome = Outcome("INTERRUPTED", 130, event.reason) if event.interrupt else Outcome("STOPPED", 0, event.reason)
    return begin(state, outcome, grace, now)


def time_is_up(state: State, event: TimeLimit, now: float) -> Change:
    """The scheduler will end the job soon: our own stop comes first, and one under way must not last longer."""
    if state.stop is not None:
        deadline = min(state.stop.deadline, now + state.settings.grace)
        return replace(state, stop=_share(state, replace(state.stop, deadline=deadline), now)), []
    if state.first is not None:
        return begin(state, deaths.failure(state.first), state.settings.failure_grace, now)
    return begin(state, Outcome("TIMEOUT", 1, event.reason), state.settings.grace, now)


def everyone(state: State, event: EveryoneTerminated, now: float) -> Change:
    """TERM reached everything: the verdict is written at once, what remains is to wait and to tell the services."""
    actions: list[Action] = []
    if state.stop is None:
        outcome = Outcome(event.state, event.exit_code, event.reason)
        first = state.first
        if first is not None and not event.certain and not deaths.due_to_term(state, first):
            outcome = deaths.failure(first)
        state, actions = begin(state, outcome, state.settings.grace, now)
    assert state.stop is not None
    if state.concluded:
        return state, actions
    state = replace(state, stop=replace(state.stop, everyone=True), concluded=True)
    assert state.stop is not None
    return state, [Conclude(state.stop.outcome), *actions]


def finish(state: State, event: Swept) -> Change:
    """The last look is done: say how it ended."""
    if state.phase != SWEEPING or state.stop is None:
        return state, []
    outcome = state.stop.outcome
    if event.left:
        outcome = replace(outcome, reason=f"{outcome.reason}; still there: {', '.join(event.left)}", left=event.left)
    actions: list[Action] = [] if state.concluded else [Conclude(outcome)]
    if state.announced != outcome.state:
        actions.append(Announce(outcome.state, outcome.reason))
    state = replace(state, phase=OVER, concluded=True, announced=outcome.state)
    return state, [*actions, Finish(outcome.exit_code)]


def greet(state: State, event: TaskBegan) -> list[Action]:
    """A task that comes up while its step is being stopped is told so at once."""
    step = state.steps.get(event.step)
    if step is None or not step.signalled:
        return []
    return [SignalTask(event.step, event.task, step.signalled)]


def deadlines(state: State) -> list[float]:
    """When a stop must be looked at again."""
    stop = state.stop
    if stop is None or not stop.tiers or state.phase != STOPPING:
        return []
    patient = [stop.tier_deadline] if state.count(stop.tiers[0], UNTOLD, TOLD) else []
    return patient + ([state.kill_by] if state.kill_by < NEVER else [])


def _share(state: State, stop: Stop, now: float) -> Stop:
    """Give the first of the tiers its share of the time that is left, or what is beyond the usual grace: that is there
    to finish requests, which one tier after the other has none of any more."""
    left = max(0.0, stop.deadline - now)
    share = max(left / max(1, len(stop.tiers)), left - state.settings.grace)
    return replace(stop, tier_deadline=now + share)


def _signal_tier(state: State, now: float) -> Change | None:
    stop = state.stop
    if state.phase != STOPPING or stop is None or not stop.tiers or not state.count(stop.tiers[0], UNTOLD):
        return None
    actions: list[Action] = []
    for step in state.tier(stop.tiers[0]):
        if step.standing != UNTOLD:
            continue
        number = _stop_signal(step)
        state = state.with_step(replace(step, signalled=number))
        if step.step.kind == "service" or not stop.everyone:
            actions.append(Signal(step.step.name, number, max(0.0, stop.tier_deadline - now)))
    return state, actions


def _kill_tier(state: State, now: float) -> Change | None:
    stop = state.stop
    if state.phase != STOPPING or stop is None or not stop.tiers or now < stop.tier_deadline:
        return None
    if not state.count(stop.tiers[0], UNTOLD, TOLD):
        return None
    stubborn = [step for step in state.tier(stop.tiers[0]) if step.standing != KILLED]
    for step in stubborn:
        state = state.with_step(replace(step, kill_until=now + state.settings.kill_wait))
    return state, [Kill(step.step.name) for step in stubborn]


def _give_up(state: State, now: float) -> Change | None:
    """What does not even end after KILL is left to the sweep, which names it."""
    if state.phase != STOPPING or now < state.kill_by:
        return None
    for step in state.steps.values():
        if step.alive and step.kill_until is not None and now >= step.kill_until:
            state = state.with_step(replace(step, phase=LOST))
    return state.looked_through(), []


def _next_tier(state: State, now: float) -> Change | None:
    stop = state.stop
    if state.phase != STOPPING or stop is None:
        return None
    if not stop.tiers:
        return replace(state, phase=SWEEPING), [Sweep(elsewhere=not stop.everyone)]
    if state.count(stop.tiers[0], UNTOLD, TOLD, KILLED):
        return None
    return replace(state, stop=_share(state, replace(stop, tiers=stop.tiers[1:]), now)), []


def _stop_signal(step: StepState) -> int:
    """A service ignores the first TERM, which on a cluster reaches everything at once, and obeys INT."""
    return int(signal.SIGINT if step.step.kind == "service" else signal.SIGTERM)


RULES: tuple[Callable[[State, float], Change | None], ...] = (_signal_tier, _kill_tier, _give_up, _next_tier)
