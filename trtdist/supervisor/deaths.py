"""Ends that nobody asked for: what each says, and which came first. Pure. Standard library, Python 3.9.

A launcher that was killed takes its tasks along, and a shim that was killed takes its program along, so what was only
seen to be gone counts from when it was last seen alive, and stands before what told its end at the same time. A
launcher that ends by itself is seen to have ended a moment later, so it counts from when the first of its ranks was
without it. A rank whose neighbour has gone ends by that, or by the TERM of its launcher, often before anybody knows of
the neighbour: it comes after any rank of its step that ended in another way.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from trtdist.events import RUNGS
from trtdist.supervisor.facts import Death, Outcome, Settings

# The command line tells deaths, too, and does without the state machine.
if TYPE_CHECKING:
    from trtdist.plan import Step
    from trtdist.supervisor.messages import StartFailed
    from trtdist.supervisor.state import State

__all__ = [
    "FOLLOWING",
    "Death",
    "due_to_term",
    "earlier",
    "failure",
    "first_of",
    "gave_up",
    "how_it_ended",
    "in_words",
    "may_follow",
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
    "orphaned",
    "unhealthy",
]

_LAUNCHER_KILLED, _GONE, _TOLD, _LAUNCHER_ENDED, _ORPHANED = range(5)
_NAMED = 4

# MPI_ERR_UNKNOWN, which Open MPI 5 exits with when a connection to a neighbour breaks, and what its fault tolerance
# has for a neighbour that has gone: MPI_ERR_PROC_ABORTED, _PROC_FAILED, _PROC_FAILED_PENDING, _REVOKED (mpi.h).
_LOST_PEER = frozenset({14, 74, 75, 76, 77})
FOLLOWING = _LOST_PEER | {128 + signal.SIGTERM}
"""The exit codes of ranks that end because another one has: of MPI, and of the TERM that its launcher sends then."""
# A rank that is known to be killed later than this after others ended has not taken them along: it is one that did not
# listen to TERM, which Slurm kills KillWait later (slurm.conf: 30 s unless set).
_FOLLOWS_S = 3.0
# The same of one that ended with code 0, as those may that see their neighbours leave; clocks of nodes differ by more.
_FOLLOWS_ORDERLY_S = 0.05


def of_task(step: str, task: str, code: int | None, number: int | None, at: float) -> Death:
    """The death that a shim told, by an exit code or a signal's number."""
    return Death(task, step, code, number, at, how_it_ended(code, number), _TOLD)


def orphaned(death: Death) -> Death:
    """The death of a rank whose launcher had ended before."""
    return replace(death, order=_ORPHANED)


def of_gone(step: str, task: str, at: float) -> Death:
    """The death of a task whose shim vanished: the shim was killed, and its program with it."""
    how = "vanished together with its shim, which had no time to say why"
    return Death(task, step, None, None, at, how, _GONE)


def of_refusal(step: str, task: str, reason: str, at: float) -> Death:
    """The death of a task that did not even begin, since it cannot run where it is."""
    return Death(task, step, None, None, at, reason, _TOLD)


def of_step(step: Step, code: int | None, number: int | None, at: float) -> Death:
    """The death of the first process of a step: of its launcher, or of the task itself when it has no launcher."""
    how = how_it_ended(code, number)
    if step.kind == "workers":
        how = f"ended as a whole: its launcher {how}"
    order = _LAUNCHER_ENDED if number is None else _LAUNCHER_KILLED
    return Death(step.name, step.name, code, number, at, how, order)


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
    """The end of the sentence "gen.0.1 ..." of an end that nobody had asked for."""
    words = in_words(code, number)
    return words if number is not None or (code or 0) > 128 else f"{words} and nobody had asked it to"


def in_words(code: int | None, number: int | None) -> str:
    """The end of the sentence "gen.0.1 ...", whoever had asked for it."""
    if number is not None:
        return f"was killed by {_signal_name(number)}"
    named = f" ({_signal_name(code - 128)})" if code is not None and code > 128 else ""
    return f"ended with exit code {code}{named}"


def may_follow(death: Death) -> bool:
    """Whether a rank ended as one does whose neighbour has gone: by an error of MPI, or by its launcher's TERM."""
    by_signal = death.signal == signal.SIGTERM
    return death.name != death.step and (by_signal or (death.signal is None and death.code in FOLLOWING))


def first_of(noted: Sequence[Death]) -> Death:
    """Which of one or more deaths came first: those of ranks that lost a neighbour come after that neighbour, and those
    of ranks that lost their launcher after that."""
    alone = _earliest(death for death in noted if death.order == _ORPHANED)
    dated = [_no_later(death, alone) if death.name == death.step else death for death in noted]
    kept = list({(death.step, death.name): death for death in reversed(dated)}.values())
    left = _earliest(filter(may_follow, noted))
    explained = {death.step for death in kept if _took_along(death, left)}
    causes = [death for death in kept if not (death.step in explained and may_follow(death))]
    first = min(causes, key=lambda death: (_culprit(death, left).at, death.at, death.order))
    return _culprit(first, left)


def _culprit(death: Death, left: Mapping[str, float]) -> Death:
    """A culprit counts from when the first neighbour of its step left for it."""
    return _no_later(death, left) if _took_along(death, left) else death


def _earliest(found: Iterable[Death]) -> dict[str, float]:
    """When the first of these deaths was, by step."""
    times: dict[str, float] = {}
    for death in found:
        times[death.step] = min(death.at, times.get(death.step, death.at))
    return times


def _no_later(death: Death, times: Mapping[str, float]) -> Death:
    return replace(death, at=min(death.at, times.get(death.step, death.at)))


def _took_along(death: Death, left: Mapping[str, float]) -> bool:
    """Whether the neighbours of a rank that ended by itself left for it."""
    of_itself = death.name != death.step and death.order != _ORPHANED and not may_follow(death)
    seen_within = _FOLLOWS_ORDERLY_S if death.code == 0 else _FOLLOWS_S
    return of_itself and death.step in left and death.at <= left[death.step] + seen_within


def earlier(one: Death | None, other: Death) -> Death:
    """Whichever came first."""
    return other if one is None or (other.at, other.order) < (one.at, one.order) else one


def note(state: State, death: Death, now: float) -> State:
    """Take a death down; one that follows from a stop is none."""
    if state.ending:
        return state
    noted = (*state.noted, death)
    first = first_of(noted)
    until = max(now + state.settings.settle, state.doubt_until) if state.settle_until is None else state.settle_until
    if may_follow(first):
        until = max(until, now + state.settings.peer_settle)
    elif state.first is not None and may_follow(state.first):
        until = min(until, max(now + state.settings.settle, state.doubt_until))
    return replace(state, noted=noted, first=first, settle_until=until)


def failure(first: Death) -> Outcome:
    """The run failed because of this death."""
    where = "" if first.name == first.step else f" (step {first.step})"
    return Outcome("FAILED", 1, f"{first.name}{where} {first.how}", first)


def unhealthy(service: str, settings: Settings) -> Outcome:
    """A head service was not healthy in time."""
    reason = f"{service} was not healthy within {settings.service_timeout:g} s"
    return Outcome("TIMEOUT", 3, reason, Death(service, service, None, None, 0.0, "was not healthy in time", _TOLD))


def not_ready(state: State, last: Death | None = None) -> Outcome:
    """The run was not ready in time; says how far each server got, and which canary was not answered last.

    `last` is the rank that is behind the others, if one is; where a prompt got stuck in a server, that is told instead.
    """
    behind = [name for name in state.servers if state.rungs.get(name) != RUNGS[-1]]
    named = [_how_far(name, state.rungs) for name in behind]
    more = [f"and {len(named) - _NAMED} more"] if len(named) > _NAMED else []
    detail = ", ".join(named[:_NAMED] + more) or "the canary did not pass"
    failed = [one for one in state.unanswered.values() if state.rungs.get(one.generation) != RUNGS[-1]]
    if failed:
        way = " and ".join(name for name in (failed[0].context, failed[0].generation) if name)
        detail += f"; a prompt through {way} failed: {failed[0].reason}"
    suspects = tuple(name for name in behind if name in {one.server for one in failed})
    reason = f"not ready within {state.settings.ready_timeout:g} s: {detail}"
    if last is not None and not suspects:
        return Outcome("TIMEOUT", 3, f"{reason}; {last.name} {last.how}", last)
    return Outcome("TIMEOUT", 3, reason, behind=suspects or _slowest(behind, state.rungs))


def _how_far(name: str, rungs: Mapping[str, str]) -> str:
    return f"{name} got as far as '{rungs[name]}'" if name in rungs else f"{name} never came up"


def _slowest(names: Sequence[str], rungs: Mapping[str, str]) -> tuple[str, ...]:
    reached = {name: RUNGS.index(rungs[name]) if rungs.get(name) in RUNGS else -1 for name in names}
    return tuple(name for name in names if reached[name] == min(reached.values()))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
