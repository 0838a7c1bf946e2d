"""Which server makes no progress while the run comes up, and which of its ranks is behind. Pure. Standard library,
Python 3.9.

A rank moves when it tells something, when its log grows, or when it is seen to work. A server none of whose ranks has
moved for the deadline is not called stalled at once: its tasks are asked what they do, and one that reads, writes or
takes new memory works. A rank that only turns in a loop does not: it waits for another.

Behind is the rank whose log shows the fewest of the steps that all go through (`laggard`); only between ranks that are
as far, or whose engine is loaded, does it count who moved last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from trtdist.events import RUNGS
from trtdist.supervisor.facts import Death, Stall
from trtdist.supervisor.messages import Action, Examine, Moved, Seen, TellStalled
from trtdist.supervisor.overlay import Overlay
from trtdist.supervisor.state import STARTING, State

__all__ = ["behind", "look", "moved", "pace", "seen"]

# How long answers are waited for: tasks look for the question every 5 s and watch the program for 2 s (seconds).
_ANSWERS = 10.0
# Before the run is given up, so that what its programs do is written down.
_LAST_LOOK = 12.0
# A rank is behind when the others moved so much later.
_CLEARLY = 1.0
_BEHIND = "is behind the others"
_ENGINE = frozenset(RUNGS[RUNGS.index("engine") :])
_LOADED = 1000
_REGISTERED = frozenset(RUNGS[RUNGS.index("registered") :])
_UP = frozenset(RUNGS[RUNGS.index("answering") :])

Change = tuple[State, list[Action]]


def pace(stall_timeout: float) -> float:
    """How often the logs are to be looked at, in seconds."""
    return min(5.0, max(0.2, stall_timeout / 4))


def moved(state: State, tasks: Iterable[str], now: float) -> State:
    """Take down that tasks have told something."""
    if state.phase != STARTING:
        return state
    known = state.progress.moved
    for task in tasks:
        known = known.having(task, now)
    return replace(state, progress=replace(state.progress, moved=known))


def seen(state: State, event: Seen, now: float) -> Change:
    """Take down what a task was seen to do."""
    doing = {**state.progress.doing, event.task: event.doing}
    state = replace(state, progress=replace(state.progress, doing=doing))
    return (moved(state, [event.task], now) if event.working else state), []


def look(state: State, event: Moved, now: float) -> Change:
    """Logs were looked at: ask the tasks of a silent server what they do, and call it stalled if they do nothing."""
    if state.phase != STARTING or state.settle_until is not None:
        return state, []
    progress = state.progress
    later = {task: max(now - ago, progress.moved.get(task, 0.0)) for task, ago in event.ago.items()}
    far = {task: max(steps, progress.far.get(task, -1)) for task, steps in event.far.items()}
    progress = replace(progress, moved=Overlay({**progress.moved, **later}), far={**progress.far, **far})
    state = replace(state, progress=progress)
    silent = _silent(state, now)
    progress = replace(progress, told=progress.told & frozenset(silent))
    asked = progress.asked
    actions: list[Action] = []
    if asked is None or now >= asked + _ANSWERS or _answered(state, silent):
        stalls = [_stall(state, name, now) for name, due in silent.items() if asked is not None and asked >= due]
        actions += [TellStalled(stall) for stall in stalls if stall.server not in progress.told]
        progress = replace(progress, told=progress.told | {stall.server for stall in stalls})
        if any(asked is None or asked < due for due in silent.values()) or _last_look(state, now):
            progress = replace(progress, asked=now, doing={})
            actions.append(Examine())
    return replace(state, progress=progress), actions


def behind(state: State, now: float) -> Death | None:
    """The rank to look at among those of the servers that got least far when the time is up; None when all are up."""
    tasks = [task for name in _least_far(state) for task in state.tasks.get(name, ())]
    last = _last(state, tasks)
    if last is None:
        return None
    step = next(name for name, each in state.steps.items() if last.rpartition(".")[0] in each.step.servers)
    return Death(last, step, None, None, 0.0, _in_the_end(state, last, tasks, now), 0)


def _last(state: State, tasks: Sequence[str]) -> str | None:
    """The rank to look at of these; None when there is none, or none has begun."""
    known = state.progress.moved
    never = [task for task in tasks if task not in known]
    if never or not tasks:
        return never[0] if len(never) < len(tasks) else None
    return min(tasks, key=lambda task: (_steps(state, task), known[task]))


def _place(state: State, last: str, tasks: Sequence[str]) -> str:
    """The place of the last of these ranks among the others, as the end of a sentence."""
    known, others = state.progress.moved, [task for task in tasks if task != last]
    if last not in known:
        return "never came up"
    if not others:
        return "stands still"
    clearly = max(known[task] for task in others) - known[last] >= _CLEARLY
    return _BEHIND if clearly or _is_less_far(state, last, others) else "stands still with the others"


def _in_the_end(state: State, last: str, tasks: Sequence[str], now: float) -> str:
    """The same when the time is up, which it may be for ranks that do all they can."""
    place, moved = _place(state, last, tasks), state.progress.moved.get(last)
    if moved is None or _is_less_far(state, last, tasks):
        return place
    if now - moved < _LAST_LOOK:
        return "was still on its way when the time was up"
    # Who was seen to work has moved by that.
    looked_at = last in state.progress.doing
    return place if looked_at or place == _BEHIND else f"was silent for the last {now - moved:.0f} s"


def _is_less_far(state: State, last: str, others: Iterable[str]) -> bool:
    return any(_steps(state, task) > _steps(state, last) for task in others)


def _steps(state: State, task: str) -> int:
    """How many of the steps of loading its log shows; as many for each rank of a loaded engine, which its leader's
    tells of."""
    return _LOADED if state.rungs.get(task.rpartition(".")[0]) in _ENGINE else state.progress.far.get(task, -1)


def _least_far(state: State) -> list[str]:
    """The servers that are not up, of these the ones on the lowest rung."""
    rungs = {name: RUNGS.index(state.rungs[name]) if name in state.rungs else -1 for name in state.servers}
    waiting = {name: rung for name, rung in rungs.items() if RUNGS[rung] not in _UP or rung < 0}
    return [name for name, rung in waiting.items() if rung == min(waiting.values())]


def _silent(state: State, now: float) -> Mapping[str, float]:
    """The servers that are not up and have not moved for the deadline, with when that was reached."""
    timeout = state.settings.stall_timeout
    if timeout <= 0:
        return {}
    found = {}
    for name in _awaited(state):
        times = [state.progress.moved[task] for task in state.tasks.get(name, ()) if task in state.progress.moved]
        if times and state.rungs.get(name) not in _UP and now >= max(times) + timeout:
            found[name] = max(times) + timeout
    return found


def _awaited(state: State) -> list[str]:
    """The servers that may move: not one that waits to be started again, nor one that is registered as long as it has
    to wait for others to be so."""
    there = [step for step in state.steps.values() if step.alive and step.fall is None]
    names = [name for step in there for name in step.step.servers]
    routers = [step.step.name for step in state.steps.values() if step.step.kind == "router"]
    if all(_registered(state, name) for name in (*state.servers, *routers)):
        return names
    return [name for name in names if not _registered(state, name)]


def _registered(state: State, name: str) -> bool:
    return state.rungs.get(name) in _REGISTERED


def _answered(state: State, servers: Iterable[str]) -> bool:
    """Whether every task of these servers that has begun has said what it does since it was asked."""
    begun = state.progress.moved.keys()
    return all(task in state.progress.doing for name in servers for task in state.tasks[name] if task in begun)


def _last_look(state: State, now: float) -> bool:
    """Whether the run is about to be given up, and nobody has looked for a while."""
    if state.ready_by is None or state.settings.ready_timeout < 2 * _LAST_LOOK:
        return False
    asked = state.progress.asked
    return now >= state.ready_by - _LAST_LOOK and (asked is None or asked < state.ready_by - 2 * _LAST_LOOK)


def _stall(state: State, server: str, now: float) -> Stall:
    silent = now - max(state.progress.moved.get(task, 0.0) for task in state.tasks[server])
    tasks = state.tasks[server]
    last = _last(state, tasks)
    assert last is not None, "a silent server has a rank that has begun"
    return Stall(server, last, silent, _place(state, last, tasks), state.progress.doing.get(last, ""))
