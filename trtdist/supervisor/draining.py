"""A server that is asked to leave while its run goes on: it finishes its requests first. Pure. Standard library,
Python 3.9.

The server gets TERM: it lets nobody find it any more, answers what it has begun, and ends.
"""

from __future__ import annotations

import signal
from dataclasses import replace

from trtdist.supervisor import deaths
from trtdist.supervisor.messages import Action, DrainAsked, Drained, Kill, Refuse, Signal, StepEnded
from trtdist.supervisor.state import DONE, KILL_PATIENCE, LOST, READY, State, StepState

__all__ = ["RULES", "ask", "deadlines", "ended"]

Change = tuple[State, list[Action]]


def ask(state: State, event: DrainAsked, now: float) -> Change:
    """Have a server leave; another request only shortens its time."""
    step = next((step for step in state.steps.values() if event.server in step.step.servers), None)
    reason = _problem(state, step, event.server)
    if reason or step is None:
        return state, [Refuse(event.request, reason)]
    grace = state.settings.grace if event.grace is None else event.grace
    until = now + grace if step.drain_until is None else min(step.drain_until, now + grace)
    # One that is coming back is not waited for any more.
    asked = replace(step, drain_until=until, signalled=int(signal.SIGTERM), start_by=None, deadline=None)
    state = state.with_step(asked)
    return state, [Signal(step.step.name, int(signal.SIGTERM), grace)] if step.drain_until is None else []


def _problem(state: State, step: StepState | None, server: str) -> str:
    """Why a server cannot leave alone, "" when it can."""
    if step is None:
        return f"there is no server {server}: this run has {', '.join(state.servers)}"
    if state.phase != READY:
        return f"{server} cannot be drained: the run is not ready, or is ending"
    if len(step.step.servers) > 1:
        return f"{server} cannot leave alone: its MPI world ends with it (`launch: per_server` starts them apart)"
    if step.drained or not step.alive or step.fall is not None:
        return f"{server} does not run"
    role = state.roles[server]
    others = [other for other in state.steps.values() if other is not step and _stays(other)]
    if not any(state.roles[name] == role for other in others for name in other.step.servers):
        return f"{server} is the last {role} server: `trtdist down` ends the run, and drains it"
    return ""


def _stays(step: StepState) -> bool:
    return step.alive and step.fall is None and step.drain_until is None


def ended(state: State, step: StepState, event: StepEnded, now: float) -> Change:
    """A server that was asked to leave has left, one way or another."""
    how = "finished its requests and left"
    if event.code != 0:
        how = f"was to finish its requests and {deaths.how_it_ended(event.code, event.signal)}"
    if step.kill_until is not None:
        how = "did not finish its requests in time and was killed"
    state = state.with_step(replace(step, phase=DONE, drained=True))
    return state, [Drained(step.step.name, f"{step.step.name} {how}")]


def deadlines(state: State) -> list[float | None]:
    """When a server that is still there must be killed, and when one that was killed is given up."""
    leaving = [step for step in state.fallen() if step.alive and step.drain_until is not None]
    return [step.drain_until if step.kill_until is None else step.kill_until for step in leaving]


def _late(step: StepState, now: float) -> bool:
    return step.alive and step.drain_until is not None and step.kill_until is None and now >= step.drain_until


def _kill(state: State, now: float) -> Change | None:
    late = [step for step in state.fallen() if _late(step, now)]
    if state.ending or not late:
        return None
    for step in late:
        state = state.with_step(replace(step, kill_until=now + KILL_PATIENCE * state.settings.kill_wait))
    return state, [Kill(step.step.name) for step in late]


def _give_up(state: State, now: float) -> Change | None:
    """Nobody is sent to it, so that the run can go on beside what is left of it; the sweep names that at the end."""
    for step in state.fallen():
        left = step.alive and step.drain_until is not None and step.kill_until is not None and now >= step.kill_until
        if left and not state.ending:
            name = step.step.name
            state = state.with_step(replace(step, phase=LOST, drained=True))
            return state, [Drained(name, f"{name} was killed, since it did not finish in time, and did not end of it")]
    return None


RULES = (_kill, _give_up)
