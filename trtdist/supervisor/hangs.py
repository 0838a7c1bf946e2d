"""Finds what is there and does nothing any more once a run is ready, and who keeps it from going on. Standard library,
Python 3.9.

Nothing of that ends, so nobody else tells. NATS, etcd and the HTTP front end are asked; the router and the leaders of
servers keep a lease in etcd, and one that is still there without its place hangs; an engine that lets its requests wait
is told of by its leader, which itself goes on. So a server that nobody asks is never found: it has nothing to do.

Looks are counted, not seconds, so that a supervisor that was stopped does not take its own absence for that of others.
Before a hang is told, every task is asked what it does, so that the stacks are there and the rank is named.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from trtdist.events import RUNGS, EngineSilent, TaskSeen
from trtdist.plan import Plan
from trtdist.supervisor.facts import Stall
from trtdist.supervisor.head import Head
from trtdist.supervisor.messages import TaskRefused
from trtdist.supervisor.state import HEALTHY, READY, State

__all__ = ["LOOKS", "LOOK_S", "Hang", "Hangs", "awaited", "culprit"]

LOOK_S, LOOKS = 3.0, 4
# How long answers are waited for: tasks look for the question every 5 s and watch the program for 2 s.
_ANSWERS_S, _AGAIN_S = 10.0, 0.2
_TURNS = 0.5
_REGISTERED = frozenset(RUNGS[RUNGS.index("registered") :])


@dataclass(frozen=True)
class Hang:
    """A task that hangs, since `at` (epoch seconds), in a server, service or program; `stall` tells of it."""

    stall: Stall
    step: str
    at: float
    reason: str

    @property
    def death(self) -> TaskRefused:
        """What the state machine hears of it."""
        return TaskRefused(self.step, self.stall.task, self.reason, self.at)


def awaited(state: State) -> Mapping[str, str]:
    """Who is to answer in a ready run, with the step of each: nothing that falls, comes back or leaves."""
    if state.phase != READY or state.settle_until is not None:
        return {}
    found = {}
    for step in state.steps.values():
        if not step.alive or step.fall is not None or step.drain_until is not None or step.step.kind == "canary":
            continue
        for name in step.step.servers or (step.step.name,):
            if step.phase == HEALTHY or state.rungs.get(name) in _REGISTERED:
                found[name] = step.step.name
    return found


def culprit(tasks: Sequence[str], others: Collection[str], seen: Mapping[str, TaskSeen]) -> tuple[str, str]:
    """The task of a server to look at when its engine gives nothing, and its place among the others as the end of a
    sentence.

    One that a signal keeps from running is it, of another server if none of these (a KV cache does not come then). Of
    ranks of which some turn in a loop, as one does that waits for others, it is the only one that does not.
    """
    for group, how in ((tasks, "is behind the others"), (sorted(others), "keeps the others waiting")):
        stopped = [task for task in group if task in seen and seen[task].stopped]
        if stopped:
            return stopped[0], how
    silent = [task for task in tasks if task not in seen]
    if len(silent) == 1 < len(tasks):
        return silent[0], "is behind the others"
    resting = [task for task in tasks if task in seen and seen[task].cpu < _TURNS]
    if len(resting) == 1 < len(tasks) and not silent:
        return resting[0], "is behind the others"
    return tasks[0], "stands still with the others" if len(tasks) > 1 else "stands still"


class Hangs:
    """Watches one run; `view` gives who is awaited at present, as `awaited` does, `ask` has all tasks asked."""

    def __init__(self, plan: Plan, head: Head, view: Callable[[], Mapping[str, str]], ask: Callable[[], None]) -> None:
        self._plan = plan
        self._head = head
        self._view = view
        self._ask = ask
        self._kinds = {step.name: step.kind for step in plan.steps}
        self._ranks = {server.name: [f"{server.name}.{rank.rank}" for rank in server.ranks] for server in plan.servers}
        self._silent: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._told: dict[str, EngineSilent] = {}
        self._seen: dict[str, TaskSeen] = {}

    def engine_silent(self, event: EngineSilent) -> None:
        """A server tells that its engine lets requests wait."""
        self._told[event.server] = event

    def seen(self, event: TaskSeen) -> None:
        """A task was looked at."""
        self._seen[event.name] = event

    def services(self) -> list[TaskRefused]:
        """The deaths of services that do not answer now: who has just died for want of one did so after it."""
        names = [name for name in self._view() if self._kinds.get(name) == "service" and self._silent[name]]
        return [self._without_answer(name, name).death for name in names]

    async def find(self) -> list[Hang]:
        """What hangs by now, after a look that is due; takes LOOK_S, and longer when something does."""
        await asyncio.sleep(LOOK_S)
        at = time.time()
        silent = await self._look()
        for name in silent:
            self._since.setdefault(name, at)
        self._silent = Counter({name: self._silent[name] + 1 for name in silent})
        self._since = {name: since for name, since in self._since.items() if name in silent}
        told, self._told = self._told, {}
        late = [name for name in silent if self._silent[name] >= LOOKS]
        if not late and not told:
            return []
        await self._have_all_seen()
        # What came back or fell meanwhile does not hang.
        still = await self._look() if late else []
        late = [name for name in late if name in still]
        view = self._view()
        found = [self._without_answer(name, view[name]) for name in late if name in view]
        stuck = [self._without_output(event) for name, event in told.items() if name in view]
        # One that waits for another server is told of after that one.
        return found + sorted(stuck, key=lambda hang: not hang.stall.task.startswith(f"{hang.stall.server}."))

    async def _look(self) -> list[str]:
        """Who does not answer: services first, and while one of them does not, nobody else is asked."""
        view = self._view()
        services = [name for name, step in view.items() if self._kinds[step] == "service"]
        well = await asyncio.gather(*map(self._head.healthy, services))
        silent = [name for name, url in zip(services, well) if url is None]
        if silent:
            return silent
        found: list[str] = []
        members = [name for name, step in view.items() if self._kinds[step] in ("workers", "router")]
        if members and not self._plan.over_http:
            registered = await self._head.registered()
            present = self._view() if registered is not None else {}
            found += [name for name in members if name in present and name not in (registered or ())]
        fronts = [name for name, step in view.items() if self._kinds[step] == "front"]
        return found + [name for name in fronts if not await self._head.front_answers()]

    async def _have_all_seen(self) -> None:
        """Ask all tasks what they do, and wait until they have said so, or some cannot."""
        self._seen.clear()
        self._ask()
        until = time.monotonic() + _ANSWERS_S
        wanted = {task for name in self._view() for task in self._ranks.get(name, [name])}
        while time.monotonic() < until and not wanted <= self._seen.keys():
            await asyncio.sleep(_AGAIN_S)

    def _without_answer(self, name: str, step: str) -> Hang:
        task = self._ranks.get(name, [name])[0]
        since = self._since.get(name, time.time())
        seconds = max(0.0, time.time() - since)
        kept = self._kinds[step] in ("workers", "router")
        how = "does not keep its place in etcd" if kept else "does not answer"
        doing = self._doing(task)
        it = f"; it {doing}" if doing else ""
        return Hang(Stall(name, task, seconds, how, doing), step, since, f"hangs: it {how}{it}")

    def _without_output(self, event: EngineSilent) -> Hang:
        view = self._view()
        tasks = self._ranks[event.server]
        others = {task for name in view if name != event.server for task in self._ranks.get(name, ())}
        task, how = culprit(tasks, others, self._seen)
        step = view.get(task.rpartition(".")[0], view[event.server])
        doing = self._doing(task)
        it = f"; it {doing}" if doing else ""
        waits = "a request waits" if event.requests == 1 else f"{event.requests} requests wait"
        reason = f"{how}{it}: {waits} for the engine of {event.server}, which has given nothing for {event.seconds:g} s"
        return Hang(Stall(event.server, task, event.seconds, how, doing), step, time.time(), reason)

    def _doing(self, task: str) -> str:
        return self._seen[task].doing if task in self._seen else ""
