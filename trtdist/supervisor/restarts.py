"""Deaths that a run survives: what is started again, and what it goes on without. Pure. Standard library, Python 3.9.

A step that falls is withdrawn at once, so that nobody is sent to it. Its deaths settle as any other, then it is killed
as far as it still lives, waits, and starts as it did at first. Restarts are counted in a row: a step that has served
for `Settings.forgive` begins anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Optional

from trtdist.supervisor import deaths, stopping
from trtdist.supervisor.facts import Death
from trtdist.supervisor.messages import (
    Action,
    Announce,
    FindKilled,
    Kill,
    Place,
    Placed,
    Restarting,
    StepEnded,
    Withdraw,
    Withdrawn,
    WrittenOff,
)
from trtdist.supervisor.overlay import Overlay
from trtdist.supervisor.state import (
    HEALTHY,
    KILL_PATIENCE,
    PAUSED,
    PLACING,
    READY,
    RUNNING,
    STARTING,
    WAITING,
    Fall,
    State,
    StepState,
)

__all__ = ["RULES", "deadlines", "ended", "fall", "forgotten", "placed", "serves", "survivable", "withdrawn"]

Change = tuple[State, list[Action]]
Rule = Callable[[State, float], Optional[Change]]

_LONGEST_PAUSE = 300.0
_NAMED = 4


def survivable(state: State, step: StepState) -> bool:
    """Whether a death of this step may be survived, so that it is looked at here."""
    if state.ending or state.settle_until is not None or state.phase not in (STARTING, READY):
        return False
    return step.step.restarts > 0 or (state.phase == READY and not step.step.critical)


def fall(state: State, step: StepState, death: Death, now: float) -> Change:
    """Take a death down that may be survived; another one of the same fall counts if it came earlier."""
    open_yet = not state.ending and (step.fall is None or not step.fall.decided)
    asked: list[Action] = [FindKilled(step.step.name)] if open_yet and deaths.may_follow(death) else []
    if step.fall is not None:
        known = step.fall if step.fall.decided else _settling(state, step.fall, death, now)
        return state.with_step(replace(step, fall=known)), asked
    if step.back is not None and now - step.back >= state.settings.forgive:
        step = replace(step, restarts=0, cause=None)
    until = now + (state.settings.peer_settle if asked else state.settings.settle)
    fallen = Fall(death, until, withdrawn=step.step.kind == "service")
    state = forgotten(state, step).with_step(replace(step, fall=fallen, back=None))
    return state, asked if fallen.withdrawn else [*asked, Withdraw(step.step.name)]


def _settling(state: State, fallen: Fall, death: Death, now: float) -> Fall:
    """A fall with another death; who has lost a neighbour waits for longer, until that is known."""
    first = deaths.first_of((fallen.death, death))
    found = deaths.may_follow(fallen.death) and not deaths.may_follow(first)
    until = min(fallen.until, now + state.settings.settle) if found else fallen.until
    return replace(fallen, death=first, until=until)


def forgotten(state: State, step: StepState) -> State:
    """The state without how far a step has come, and when its tasks moved."""
    rungs = {name: rung for name, rung in state.rungs.items() if name not in (step.step.name, *step.step.servers)}
    tasks = {task for name in step.step.servers for task in state.tasks.get(name, ())}
    moved = Overlay({task: when for task, when in state.progress.moved.items() if task not in tasks})
    far = {task: steps for task, steps in state.progress.far.items() if task not in tasks}
    return replace(state, rungs=Overlay(rungs), progress=replace(state.progress, moved=moved, far=far))


def ended(state: State, step: StepState, event: StepEnded, now: float) -> Change:
    """The first process of a step ended whose death may be survived."""
    death = deaths.of_step(step.step, event.code, event.signal, event.at)
    state, actions = fall(state, step, death, now)
    fallen = state.steps[event.step]
    return state.with_step(replace(fallen, phase=PAUSED, kill_until=None)), actions


def withdrawn(state: State, event: Withdrawn, now: float) -> Change:
    """Nobody is sent to a fallen step any more."""
    step = state.steps.get(event.step)
    if step is None or step.fall is None:
        return state, []
    return state.with_step(replace(step, fall=replace(step.fall, withdrawn=True))), []


def placed(state: State, event: Placed, now: float) -> Change:
    """A step may start where it is placed now."""
    step = state.steps.get(event.step)
    if step is None or step.phase != PLACING or state.ending:
        return state, []
    return state.with_step(replace(step, phase=WAITING)), []


def serves(state: State, step: StepState) -> bool:
    """Whether a step does what it is there for, as far as it was started again before."""
    return step.alive and step.fall is None and (step.starts < 2 or step.back is not None or not step.restarts)


def deadlines(state: State) -> list[float | None]:
    """When fallen steps, and those that come back, must be looked at again."""
    found: list[float | None] = []
    for step in state.fallen():
        if step.fall is not None and not step.fall.decided:
            found.append(max(step.fall.until, state.doubt_until))
        elif step.fall is not None and step.phase == PAUSED and step.fall.restart_at is not None:
            found.append(max(step.fall.restart_at, state.doubt_until) if step.fall.withdrawn else None)
        elif step.fall is not None and step.alive:
            found.append(step.kill_until)
        elif _coming_back(step):
            found.append(step.deadline)
    return found


def _decide(state: State, now: float) -> Change | None:
    """Once the deaths of a fall have settled: start it again, go on without it, or fail of it."""
    for step in state.fallen():
        fallen = step.fall
        if state.ending or fallen is None or fallen.decided or now < max(fallen.until, state.doubt_until):
            continue
        if step.restarts < step.step.restarts:
            return _restart_later(state, step, fallen, now)
        if state.phase == READY and not step.step.critical and _others_of_its_roles(state, step):
            return _write_off(state, step, fallen, now)
        state = state.with_step(replace(step, fall=replace(fallen, decided=True)))
        death = _in_a_row(step, fallen.death)
        return replace(deaths.note(state, death, now), settle_until=now), []
    return None


def _restart_later(state: State, step: StepState, fallen: Fall, now: float) -> Change:
    pause = 0.0 if not step.restarts else min(_LONGEST_PAUSE, step.step.backoff * 2.0 ** min(step.restarts - 1, 32))
    fallen = replace(fallen, decided=True, restart_at=now + pause)
    cause = step.cause or fallen.death
    step = replace(step, fall=fallen, restarts=step.restarts + 1, cause=cause, deadline=None)
    reason = deaths.failure(fallen.death).reason
    told = Restarting(step.step.name, step.restarts, step.step.restarts, reason, pause)
    state, actions = _kill(state, step, now)
    return state, [told, *actions]


def _write_off(state: State, step: StepState, fallen: Fall, now: float) -> Change:
    step = replace(step, fall=replace(fallen, decided=True))
    reason = deaths.failure(_in_a_row(step, fallen.death)).reason
    state, actions = _kill(state, step, now)
    return state, [WrittenOff(step.step.name, reason), *actions]


def _kill(state: State, step: StepState, now: float) -> Change:
    """What is left of a step must not keep its place."""
    if not step.alive:
        return state.with_step(step), []
    killed = replace(step, kill_until=now + KILL_PATIENCE * state.settings.kill_wait)
    return state.with_step(killed), [Kill(step.step.name)]


def _in_a_row(step: StepState, death: Death) -> Death:
    """The death that the run fails of: the first of those in a row, and what came of starting it again."""
    if step.cause is None or not step.restarts:
        return death
    times = "once" if step.restarts == 1 else f"{step.restarts} times"
    last = "" if (death.name, death.how) == (step.cause.name, step.cause.how) else f"; last, {death.name} {death.how}"
    return replace(step.cause, how=f"{step.cause.how}, and {step.step.name} was restarted {times} in vain{last}")


def _others_of_its_roles(state: State, step: StepState) -> bool:
    """Whether each role of its servers has another that lives, or is about to."""
    others = [
        other
        for other in state.steps.values()
        if other is not step and (other.alive or other.phase in (PAUSED, PLACING, WAITING)) and not _going(other)
    ]
    there = {state.roles[name] for other in others for name in other.step.servers}
    return all(state.roles[name] in there for name in step.step.servers)


def _going(step: StepState) -> bool:
    """Whether a step is on its way out for good."""
    fallen = step.fall
    return step.drain_until is not None or (fallen is not None and fallen.decided and fallen.restart_at is None)


def _start_again(state: State, now: float) -> Change | None:
    if state.ending or state.settle_until is not None or now < state.doubt_until:
        return None
    for step in state.fallen():
        fallen = step.fall
        if step.phase != PAUSED or fallen is None or fallen.restart_at is None:
            continue
        if fallen.withdrawn and now >= fallen.restart_at:
            if state.spares and step.step.kind == "workers":
                return state.with_step(replace(step, phase=PLACING)), [Place(step.step.name)]
            return state.with_step(replace(step, phase=WAITING)), []
    return None


def _unkillable(state: State, now: float) -> Change | None:
    for step in state.fallen():
        late = step.fall is not None and step.alive and step.kill_until is not None and now >= step.kill_until
        if late and not state.ending:
            assert step.fall is not None
            outcome = deaths.failure(step.fall.death)
            outcome = replace(outcome, reason=f"{outcome.reason}; {step.step.name} did not end when it was killed")
            return stopping.begin(state, outcome, state.settings.failure_grace, now)
    return None


def _coming_back(step: StepState) -> bool:
    return step.alive and step.restarts > 0 and step.back is None and step.fall is None


def _back(state: State, now: float) -> Change | None:
    """What was started again is back when it has shown that it serves."""
    for step in state.fallen():
        if _coming_back(step) and _shown(state, step):
            return state.with_step(replace(step, back=now, deadline=None)), []
    return None


def _shown(state: State, step: StepState) -> bool:
    if step.step.kind == "service":
        return step.phase == HEALTHY
    if step.step.kind == "workers":
        return all(state.rungs.get(name) == "canary" for name in step.step.servers)
    if step.step.kind == "canary":
        return step.start_by is None
    return state.rungs.get(step.step.name) in ("registered", "answering", "canary")


def _not_back(state: State, now: float) -> Change | None:
    """What does not come back in time has died once more."""
    for step in state.fallen():
        due = step.deadline is not None and now >= step.deadline
        if due and _coming_back(step) and step.phase == RUNNING and not state.ending:
            return fall(state, step, deaths.not_back(step.step, state.settings), now)
    return None


def _tell(state: State, now: float) -> Change | None:
    """Tell whether a ready run still is, and without whom."""
    if state.phase != READY or state.settle_until is not None:
        return None
    missing = [step for step in state.fallen() if _missing(state, step)]
    words = [_word(step) for step in missing]
    detail = ", ".join(words[:_NAMED] + ([f"and {len(words) - _NAMED} more"] if len(words) > _NAMED else []))
    condition = ("READY", f"degraded: {detail}" if detail else "")
    if missing and not _answers(state):
        condition = ("STARTING", f"no requests are answered: {detail}")
    if condition == state.condition:
        return None
    return replace(state, condition=condition, announced=condition[0]), [Announce(*condition)]


def _missing(state: State, step: StepState) -> bool:
    if step.step.kind == "canary":
        return False
    return step.drained or step.drain_until is not None or step.fall is not None or _coming_back(step) or not step.alive


def _word(step: StepState) -> str:
    if step.drained:
        return f"{step.step.name} was drained"
    if step.drain_until is not None:
        return f"{step.step.name} is being drained"
    if step.fall is not None and step.fall.decided and step.fall.restart_at is None:
        return f"{step.step.name} is gone"
    count = f" ({step.restarts} of {step.step.restarts})" if step.fall is None or step.fall.decided else ""
    return f"{step.step.name} is being restarted{count}"


def _answers(state: State) -> bool:
    """Whether the services, the router, and a server of each role are there."""
    if any(not serves(state, step) for step in state.fallen() if step.step.kind in ("service", "router")):
        return False
    wanted = set(state.roles.values())
    for step in state.steps.values():
        if serves(state, step) and step.drain_until is None:
            wanted.difference_update(state.roles[name] for name in step.step.servers)
            if not wanted:
                return True
    return not wanted


RULES: tuple[Rule, ...] = (_decide, _unkillable, _back, _not_back, _start_again, _tell)
