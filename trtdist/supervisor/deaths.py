"""Ends that nobody asked for: what each says, and which came first. Pure. Standard library, Python 3.9.

A launcher that was killed takes its tasks along, and a shim that was killed takes its program along, so what was only
seen to be gone counts from when it was last seen alive, and stands before what told its end at the same time.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from trtdist.supervisor.facts import Death, Outcome, Settings

# The command line tells deaths, too, and does without the state machine.
if TYPE_CHECKING:
    from trtdist.plan import Step
    from trtdist.supervisor.messages import StartFailed, StepEnded
    from trtdist.supervisor.state import State

__all__ = [
    "Death",
    "due_to_term",
    "earlier",
    "failure",
    "gave_up",
    "how_it_ended",
    "never_began",
    "not_back",
    "not_ready",
    "not_started",
    "note",
    "of_gone",
    "of_refusal",
    "of_step",
    "of_supervisor",
    "of_task",
    "on_taken_port",
    "unhealthy",
]

_LAUNCHER_KILLED, _GONE, _TOLD, _LAUNCHER_ENDED = range(4)
_NAMED = 4


def of_task(step: str, task: str, code: int | None, number: int | None, at: float) -> Death:
    """The death that a shim told, by an exit code or a signal's number."""
    return Death(task, step, code, number, at, how_it_ended(code, number), _TOLD)


def of_gone(step: str, task: str, at: float) -> Death:
    """The death of a task whose shim vanished: the shim was killed, and its program with it."""
    how = "vanished together with its shim, which had no time to say why"
    return Death(task, step, None, None, at, how, _GONE)


def of_refusal(step: str, task: str, reason: str, at: float) -> Death:
    """The death of a task that did not even begin, since it cannot run where it is."""
    return Death(task, step, None, None, at, reason, _TOLD)


def of_step(step: Step, event: StepEnded) -> Death:
    """The death of the first process of a step: of its launcher, or of the task itself when it has no launcher."""
    how = how_it_ended(event.code, event.signal)
    if step.kind == "workers":
        how = f"ended as a whole: its launcher {how}"
    order = _LAUNCHER_ENDED if event.signal is None else _LAUNCHER_KILLED
    return Death(step.name, step.name, event.code, event.signal, event.at, how, order)


def of_supervisor(code: int | None, number: int | None, at: float) -> Death:
    """The death of the supervisor itself, as seen by whoever started it."""
    return Death("supervisor", "supervisor", code, number, at, how_it_ended(code, number), _TOLD)


def not_started(event: StartFailed) -> Death:
    """The death of a step that could not even be started."""
    return Death(event.step, event.step, None, None, event.at, f"could not be started: {event.reason}", _GONE)


def gave_up(death: Death) -> bool:
    """Whether a program ended by itself, with an exit code of its own: it was not killed and did not vanish."""
    return death.signal is None and death.code is not None and death.code <= 128


def never_began(step: Step, settings: Settings) -> Death:
    """The death of a step that got no further than its launch line."""
    how = f"was launched, and after {settings.start_timeout:g} s none of its tasks ran"
    return Death(step.name, step.name, None, None, 0.0, how, _GONE)


def not_back(step: Step, settings: Settings) -> Death:
    """The death of a step that was started again and does not get as far as before."""
    how = f"was started again and did not serve within {settings.ready_timeout:g} s"
    return Death(step.name, step.name, None, None, 0.0, how, _TOLD)


def due_to_term(state: State, death: Death) -> bool:
    """Whether a death may be what TERM to every process of the run makes of a task: services and launchers react in
    ways of their own."""
    step = state.steps[death.step].step
    of_task = step.kind != "service" and death.name != step.name
    return not of_task or death.signal == signal.SIGTERM or death.code in (0, 128 + signal.SIGTERM)


def on_taken_port(death: Death, starts: int) -> Death:
    """The death of a service that met a taken port as often as it was started."""
    return replace(death, how=f"{death.how}: each of the {starts} ports that it was given was taken by another process")


def how_it_ended(code: int | None, number: int | None) -> str:
    """The end of the sentence "gen.0.1 ..."."""
    if number is not None:
        return f"was killed by {_signal_name(number)}"
    if code is not None and code > 128:
        return f"ended with exit code {code} ({_signal_name(code - 128)})"
    return f"ended with exit code {code} and nobody had asked it to"


def earlier(one: Death | None, other: Death) -> Death:
    """Whichever came first."""
    return other if one is None or (other.at, other.order) < (one.at, one.order) else one


def note(state: State, death: Death, now: float) -> State:
    """Take a death down; one that follows from a stop is none."""
    if state.ending:
        return state
    until = max(now + state.settings.settle, state.doubt_until) if state.settle_until is None else state.settle_until
    return replace(state, first=earlier(state.first, death), settle_until=until)


def failure(first: Death) -> Outcome:
    """The run failed because of this death."""
    where = "" if first.name == first.step else f" (step {first.step})"
    return Outcome("FAILED", 1, f"{first.name}{where} {first.how}", first)


def unhealthy(service: str, settings: Settings) -> Outcome:
    """A head service was not healthy in time."""
    reason = f"{service} was not healthy within {settings.service_timeout:g} s"
    return Outcome("TIMEOUT", 3, reason, Death(service, service, None, None, 0.0, "was not healthy in time", _TOLD))


def not_ready(timeout: float, servers: tuple[str, ...], rungs: Mapping[str, str]) -> Outcome:
    """The run was not ready in time; says how far each server got."""
    behind = [name for name in servers if rungs.get(name) != "canary"]
    named = [f"{name} got as far as '{rungs[name]}'" if name in rungs else f"{name} never came up" for name in behind]
    more = [f"and {len(named) - _NAMED} more"] if len(named) > _NAMED else []
    detail = ", ".join(named[:_NAMED] + more) or "the canary did not pass"
    return Outcome("TIMEOUT", 3, f"not ready within {timeout:g} s: {detail}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
