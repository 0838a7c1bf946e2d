"""What the supervisor decides: `advance(state, event, now) -> (state, actions)`, with no I/O and no clock.

    new -> resolving -> starting -> ready -> stopping -> sweeping -> over

A handler takes an event down as a fact; the rules then do what the facts call for until none has anything to do.
Deaths settle for a moment and the earliest is the cause; `restarts` has those that the run survives. A stop goes
through the tiers, lowest first; each tier gets an equal share of the time that is left, then KILL. Standard library,
Python 3.9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trtdist.events import RUNGS
from trtdist.supervisor import (
    deaths,
    draining,
    handover,
    handover_messages,
    renewal_messages,
    renewing,
    restarts,
    stalls,
    stopping,
)
from trtdist.supervisor.facts import Outcome
from trtdist.supervisor.messages import (
    Action,
    Announce,
    Begin,
    Broke,
    CameReady,
    DrainAsked,
    EveryoneTerminated,
    FindKilled,
    Healthy,
    Input,
    Moved,
    Placed,
    PortTested,
    Probe,
    Reached,
    Resolve,
    Resolved,
    Seen,
    SignalCame,
    Start,
    StartFailed,
    StepEnded,
    StopAsked,
    Swept,
    TaskBegan,
    TaskEnded,
    TaskGone,
    TaskRefused,
    TestPort,
    Tick,
    TimeLimit,
    Unanswered,
    Unresolved,
    Withdrawn,
)
from trtdist.supervisor.state import (
    DONE,
    ENDED,
    HEALTHY,
    NEVER,
    NEW,
    OVER,
    PAUSED,
    READY,
    RESOLVING,
    RUNNING,
    STARTING,
    TESTING,
    WAITING,
    State,
    StepState,
)

__all__ = ["advance", "next_deadline"]

Change = tuple[State, list[Action]]


def advance(state: State, event: Input, now: float) -> Change:
    """Take an event at the time `now` (monotonic seconds); returns the new state and what is to be done, in order."""
    state, actions = _HANDLERS[type(event)](state, event, now)
    while True:
        for rule in _RULES:
            change = rule(state, now)
            if change is not None:
                state, more = change
                actions = actions + more
                break
        else:
            return state, actions


def next_deadline(state: State) -> float | None:
    """When `advance` must be called with Tick if nothing happens before; None when it need not."""
    if state.phase == OVER:
        return None
    times: list[float | None]
    if state.ending:
        times = [*stopping.deadlines(state)]
    elif state.settle_until is not None:
        times = [state.settle_until]
    else:
        times = [state.ready_by] if state.phase in (RESOLVING, STARTING) else []
        times += [step.deadline for step in state.services() if _unhealthy(step) and step.fall is None]
        times += [state.begin_by if state.begin_by < NEVER else None]
        times += restarts.deadlines(state) + draining.deadlines(state) + handover.deadlines(state)
        times += renewing.deadlines(state)
    return min((time for time in times if time is not None), default=None)


# Handlers: each takes one kind of event down.


def _on_begin(state: State, event: Begin, now: float) -> Change:
    if state.phase != NEW:
        return state, []
    state = replace(state, phase=RESOLVING, ready_by=now + state.settings.ready_timeout, announced="STARTING")
    return state, [Announce("STARTING", ""), Resolve("")]


def _on_tick(state: State, event: Tick, now: float) -> Change:
    return state, []


def _on_resolved(state: State, event: Resolved, now: float) -> Change:
    if state.ending:
        return state, []
    if event.service == "":
        return (renewing.begun(replace(state, phase=STARTING), now), []) if state.phase == RESOLVING else (state, [])
    step = state.steps.get(event.service)
    if step is None or step.phase != RESOLVING:
        return state, []
    return state.with_step(replace(step, phase=WAITING)), []


def _on_unresolved(state: State, event: Unresolved, now: float) -> Change:
    return _on_broke(state, Broke(event.reason), now)


def _on_start_failed(state: State, event: StartFailed, now: float) -> Change:
    step, death = state.steps[event.step], deaths.not_started(event)
    if restarts.survivable(state, step):
        return restarts.fall(state, replace(step, phase=PAUSED), death, now)
    state = state.with_step(replace(step, phase=ENDED))
    return deaths.note(state, death, now), []


def _on_step_ended(state: State, event: StepEnded, now: float) -> Change:
    step = state.steps.get(event.step)
    if step is None or not step.alive:
        return state, []
    death = deaths.of_step(step.step, event.code, event.signal, event.at)
    if step.drain_until is not None and not state.ending:
        return draining.ended(state, step, event, now)
    if _unhealthy(step) and step.fall is None and not step.restarts and not state.ending:
        state = state.with_step(replace(step, phase=TESTING, death=deaths.earlier(step.death, death)))
        return state, [TestPort(event.step)]
    done = step.step.kind == "canary" and event.code == 0 and state.phase == READY and not state.canary_stays
    if done:
        return state.with_step(replace(step, phase=DONE)), []
    if step.fall is not None or restarts.survivable(state, step):
        return restarts.ended(state, step, event, now)
    state = state.with_step(replace(step, phase=ENDED))
    return deaths.note(state, death, now), []


def _on_task_began(state: State, event: TaskBegan, now: float) -> Change:
    step = state.steps.get(event.step)
    if step is not None and step.start_by is not None:
        state = state.with_step(replace(step, start_by=None))
    return stalls.moved(state, [event.task], now), stopping.greet(state, event)


def _on_task_ended(state: State, event: TaskEnded, now: float) -> Change:
    step = state.steps.get(event.step)
    if step is None or (step.step.kind == "canary" and event.code == 0):
        return state, []
    death = deaths.of_task(event.step, event.task, event.code, event.signal, event.at)
    return _on_task_death(state, step, deaths.orphaned(death) if event.orphaned else death, now)


def _on_task_gone(state: State, event: TaskGone, now: float) -> Change:
    step = state.steps.get(event.step)
    if step is None:
        return state, []
    return _on_task_death(state, step, deaths.of_gone(event.step, event.task, event.at), now)


def _on_task_refused(state: State, event: TaskRefused, now: float) -> Change:
    step = state.steps.get(event.step)
    if step is None:
        return state, []
    return _on_task_death(state, step, deaths.of_refusal(event.step, event.task, event.reason, event.at), now)


def _on_task_death(state: State, step: StepState, death: deaths.Death, now: float) -> Change:
    if step.drain_until is not None:
        return state, []
    if step.fall is not None or (restarts.survivable(state, step) and not _first_start(step)):
        return restarts.fall(state, step, death, now)
    if step.step.kind == "service" and step.phase != HEALTHY and step.phase != ENDED:
        return state.with_step(replace(step, death=deaths.earlier(step.death, death))), []
    orphaned = not state.ending and deaths.may_follow(death)
    return deaths.note(state, death, now), [FindKilled(death.step)] if orphaned else []


def _on_port_tested(state: State, event: PortTested, now: float) -> Change:
    step = state.steps[event.step]
    if step.phase != TESTING or state.ending:
        return state, []
    assert step.death is not None
    # The port of a service that was killed may count as taken for a moment: only one that gave up met a taken port.
    taken = event.taken and deaths.gave_up(step.death)
    if taken and step.starts < state.settings.port_attempts:
        return state.with_step(replace(step, phase=RESOLVING, death=None)), [Resolve(event.step)]
    death = deaths.on_taken_port(step.death, step.starts) if taken else step.death
    state = state.with_step(replace(step, phase=ENDED))
    return deaths.note(state, death, now), []


def _on_healthy(state: State, event: Healthy, now: float) -> Change:
    step = state.steps[event.step]
    return (state.with_step(replace(step, phase=HEALTHY)), []) if step.phase == RUNNING else (state, [])


def _on_reached(state: State, event: Reached, now: float) -> Change:
    state = stalls.moved(state, state.tasks.get(event.name, ()), now)
    # What other nodes tell is seen late: a lower rung does not take back a higher one.
    known = state.rungs.get(event.name, RUNGS[0])
    if event.rung not in RUNGS or RUNGS.index(known) > RUNGS.index(event.rung):
        return state, []
    return replace(state, rungs=state.rungs.having(event.name, event.rung)), []


def _on_unanswered(state: State, event: Unanswered, now: float) -> Change:
    return replace(state, unanswered={**state.unanswered, event.generation: event}), []


def _on_ready(state: State, event: CameReady, now: float) -> Change:
    if state.phase != STARTING or state.settle_until is not None:
        return state, []
    return replace(state, phase=READY, announced="READY"), [Announce("READY", "")]


def _on_stop(state: State, event: StopAsked, now: float) -> Change:
    return stopping.ask(state, event, now)


def _on_drain(state: State, event: DrainAsked, now: float) -> Change:
    return draining.ask(state, event, now)


def _on_signal_came(state: State, event: SignalCame, now: float) -> Change:
    """What dies now may do so of the same signal: it is called a cause only once that is known."""
    until = now + state.settings.doubt
    settle_until = None if state.settle_until is None else max(state.settle_until, until)
    return replace(state, doubt_until=until, settle_until=settle_until), []


def _on_broke(state: State, event: Broke, now: float) -> Change:
    if state.ending:
        return state, []
    outcome = Outcome("FAILED", 1, event.reason)
    if state.first is not None:
        outcome = deaths.failure(state.first)
        outcome = replace(outcome, reason=f"{outcome.reason}; {event.reason}")
    return stopping.begin(state, outcome, state.settings.failure_grace, now)


def _on_swept(state: State, event: Swept, now: float) -> Change:
    return stopping.finish(state, event)


# Rules: each returns a change when the facts call for one, else None; after it the same rule has nothing to do.


def _start_services(state: State, now: float) -> Change | None:
    waiting = [step for step in state.services() if step.phase == WAITING]
    if not _may_start(state) or not waiting:
        return None
    actions: list[Action] = []
    for step in waiting:
        deadline = now + state.settings.service_timeout if step.deadline is None else step.deadline
        state = _started(state, replace(step, deadline=deadline, death=None), now)
        actions += [Start(step.step.name), Probe(step.step.name)]
    return state, actions


def _start_programs(state: State, now: float) -> Change | None:
    healthy = all(step.phase == HEALTHY for step in state.services())
    if not _may_start(state) or not healthy or not state.waits():
        return None
    actions: list[Action] = []
    for step in state.programs():
        if step.phase != WAITING:
            continue
        deadline = now + state.settings.ready_timeout if step.restarts else step.deadline
        state = _started(state, replace(step, deadline=deadline), now)
        actions.append(Start(step.step.name))
    return state, actions


def _started(state: State, step: StepState, now: float) -> State:
    start_by = now + state.settings.start_timeout
    begun = replace(step, phase=RUNNING, starts=step.starts + 1, start_by=start_by, fall=None, kill_until=None)
    # What was heard of it since its fall is of the life before.
    return (restarts.forgotten(state, step) if step.restarts else state).with_step(begun)


def _never_began(state: State, now: float) -> Change | None:
    if state.ending or state.settle_until is not None or now < state.begin_by:
        return None
    alive = [step for step in state.steps.values() if step.alive and step.fall is None]
    late = [step for step in alive if step.start_by is not None and now >= step.start_by]
    if not late:
        return state.looked_through(), []
    death = deaths.never_began(late[0].step, state.settings)
    if restarts.survivable(state, late[0]):
        return restarts.fall(state, late[0], death, now)
    return deaths.note(state, death, now), []


def _settle(state: State, now: float) -> Change | None:
    if state.ending or state.settle_until is None or now < state.settle_until:
        return None
    assert state.first is not None
    return stopping.begin(state, deaths.failure(state.first), state.settings.failure_grace, now)


def _service_too_late(state: State, now: float) -> Change | None:
    if state.ending or state.settle_until is not None:
        return None
    first = [step for step in state.services() if _unhealthy(step) and step.fall is None and not step.restarts]
    late = [step.step.name for step in first if step.deadline is not None and now >= step.deadline]
    if not late:
        return None
    return stopping.begin(state, deaths.unhealthy(late[0], state.settings), state.settings.failure_grace, now)


def _run_too_late(state: State, now: float) -> Change | None:
    waiting = state.phase in (RESOLVING, STARTING) and state.settle_until is None
    if not waiting or state.ready_by is None or now < state.ready_by:
        return None
    outcome = deaths.not_ready(state, stalls.behind(state, now))
    return stopping.begin(state, outcome, state.settings.failure_grace, now)


def _may_start(state: State) -> bool:
    return state.phase in (STARTING, READY) and state.settle_until is None


def _unhealthy(step: StepState) -> bool:
    """Whether a service was started and has not been healthy yet."""
    return step.step.kind == "service" and step.starts > 0 and step.phase not in (HEALTHY, ENDED, PAUSED)


def _first_start(step: StepState) -> bool:
    """Whether a service has not been healthy yet, so that its port is the first thing to look at."""
    return step.step.kind == "service" and not step.restarts and step.phase != HEALTHY


_HANDLERS: dict[type, Callable[[State, Any, float], Change]] = {
    Begin: _on_begin,
    Tick: _on_tick,
    Resolved: _on_resolved,
    Unresolved: _on_unresolved,
    StartFailed: _on_start_failed,
    StepEnded: _on_step_ended,
    TaskBegan: _on_task_began,
    TaskEnded: _on_task_ended,
    TaskGone: _on_task_gone,
    TaskRefused: _on_task_refused,
    PortTested: _on_port_tested,
    Healthy: _on_healthy,
    Reached: _on_reached,
    Unanswered: _on_unanswered,
    Moved: stalls.look,
    Seen: stalls.seen,
    CameReady: _on_ready,
    StopAsked: _on_stop,
    DrainAsked: _on_drain,
    Withdrawn: restarts.withdrawn,
    Placed: restarts.placed,
    SignalCame: _on_signal_came,
    TimeLimit: handover.time_is_up,
    EveryoneTerminated: handover.everyone,
    handover_messages.HandOverDue: handover.due,
    handover_messages.SuccessorAsked: handover.asked,
    handover_messages.SuccessorReady: handover.ready,
    handover_messages.SuccessorLost: handover.lost,
    renewal_messages.LookedAt: renewing.looked,
    Broke: _on_broke,
    Swept: _on_swept,
}

_RULES: tuple[Callable[[State, float], Change | None], ...] = (
    _settle,
    _never_began,
    _service_too_late,
    _run_too_late,
    _start_services,
    _start_programs,
    *restarts.RULES,
    *draining.RULES,
    *handover.RULES,
    *renewing.RULES,
    *stopping.RULES,
)
