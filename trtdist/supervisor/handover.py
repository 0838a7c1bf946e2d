"""A run whose job nears its time limit: another one comes up, takes over, and this one leaves. Pure. Standard library,
Python 3.9.

While the other one is on its way nothing changes here. Once it is READY clients go there, and after a while, which they
need to hear of it, this run stops and finishes what is open. It is called off when somebody ends this run; when this
run fails or its time is over, it takes over by itself as soon as it can.
"""

from __future__ import annotations

from dataclasses import replace

from trtdist.supervisor import stopping
from trtdist.supervisor.facts import Outcome
from trtdist.supervisor.handover_messages import (
    CallOff,
    HandOver,
    HandOverDue,
    Succeed,
    SuccessorAsked,
    SuccessorLost,
    SuccessorReady,
)
from trtdist.supervisor.messages import Action, EveryoneTerminated, TimeLimit
from trtdist.supervisor.state import READY, State

__all__ = ["RULES", "asked", "deadlines", "due", "everyone", "lost", "ready", "time_is_up"]

Change = tuple[State, list[Action]]


def due(state: State, event: HandOverDue, now: float) -> Change:
    """It is time to ask for the run that takes over."""
    told = state.handover
    if told.attempts or told.ask_at is not None:
        return state, []
    return replace(state, handover=replace(told, ask_at=now)), []


def asked(state: State, event: SuccessorAsked, now: float) -> Change:
    """Slurm has its job."""
    return replace(state, handover=replace(state.handover, name=f"{event.run} (job {event.job})")), []


def ready(state: State, event: SuccessorReady, now: float) -> Change:
    """It has taken over: this run leaves after a moment, or is leaving."""
    told = state.handover
    if not told.awaited:
        return state, []
    linger = min(state.settings.linger, event.patience / 2)
    name = f"{event.run} (job {event.job})"
    told = replace(told, awaited=False, name=name, leave_at=now + linger, leave_by=now + event.patience)
    return replace(state, handover=told), [HandOver(event.run)]


def lost(state: State, event: SuccessorLost, now: float) -> Change:
    """It does not come: another one is asked for, or none."""
    told = state.handover
    if not told.awaited:
        return state, []
    again = told.attempts < state.settings.successors
    ask_at = now + state.settings.successor_pause if again else None
    return replace(state, handover=replace(told, awaited=False, name="", problem=event.reason, ask_at=ask_at)), []


def time_is_up(state: State, event: TimeLimit, now: float) -> Change:
    """The scheduler will end the job soon, whether another run has taken over or not."""
    told = state.handover
    if told.leave_at is not None and not state.ending and state.first is None:
        return stopping.begin(state, _outcome(state), state.settings.grace, now)
    return stopping.time_is_up(state, replace(event, reason=event.reason + _remark(state)), now)


def everyone(state: State, event: EveryoneTerminated, now: float) -> Change:
    """The scheduler ends the job at once; when it was not somebody's wish, the other run is still wanted."""
    if event.certain:
        state = replace(state, handover=replace(state.handover, wanted=True))
        event = replace(event, reason=event.reason + _remark(state))
    return stopping.everyone(state, event, now)


def deadlines(state: State) -> list[float | None]:
    """When another run must be asked for, or this one must leave."""
    return [state.handover.ask_at if state.phase == READY else None, state.handover.leave_at]


def _remark(state: State) -> str:
    """What the end of a run that did not hand over says of the run that was to take over."""
    told = state.handover
    if told.awaited:
        return f"; {told.name or 'the run'} that was to take over is not READY yet"
    return f"; no run took over: {told.problem}" if told.problem and told.leave_at is None else ""


def _outcome(state: State) -> Outcome:
    return Outcome("STOPPED", 0, f"handed over to {state.handover.name}")


def _quiet(state: State) -> bool:
    return not state.ending and state.settle_until is None


def _ask(state: State, now: float) -> Change | None:
    told = state.handover
    if state.phase != READY or not _quiet(state) or told.ask_at is None or now < told.ask_at:
        return None
    told = replace(told, ask_at=None, awaited=True, attempts=told.attempts + 1)
    return replace(state, handover=told), [Succeed(told.attempts)]


def _leave(state: State, now: float) -> Change | None:
    told = state.handover
    if not _quiet(state) or told.leave_at is None or now < told.leave_at:
        return None
    patience = max(told.leave_by - now, state.settings.grace)
    return stopping.begin(state, _outcome(state), patience, now)


def _call_off(state: State, now: float) -> Change | None:
    told = state.handover
    if state.stop is None or not told.awaited or told.wanted:
        return None
    if state.stop.outcome.state not in ("STOPPED", "INTERRUPTED"):
        return None
    return replace(state, handover=replace(told, awaited=False)), [CallOff()]


RULES = (_ask, _leave, _call_off)
