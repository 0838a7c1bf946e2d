"""The cluster that a simulated supervisor sees: does what it says, and answers as processes, files and Slurm would.

A task has a shim that tells what happens to it in a file, which the supervisor reads ten times a second and whenever a
first process of a step ends; the files of other nodes are seen late. The first process of a step ends its tasks when
one of them dies. What ended by a signal is dated by when it was last looked at.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from trtdist.plan import Step
from trtdist.simulation.certificates import Certificates, is_news
from trtdist.simulation.facts import ASKED, TERM, News, Scene, Temper
from trtdist.simulation.timeline import Timeline
from trtdist.supervisor import handover_messages, messages, renewal_messages

__all__ = ["EPOCH", "Cluster", "Launch", "Task"]

EPOCH = 1_000_000.0
_NEVER = float("inf")
_LOOK = 0.1
_KILL_WAIT = 30.0


@dataclass(eq=False)
class Task:
    """A program of a step with its shim, on a node; one that is `frozen` hears no signal but KILL."""

    name: str
    node: int
    launch: Launch
    begun: bool = False
    alive: bool = True
    frozen: bool = False


@dataclass(eq=False)
class Launch:
    """A step that was started for the `number`th time: its first process and its tasks.

    `failing` says that it ends its tasks. `code`, `signal`, `fault` and `ended` are of the first end that was told,
    that of a task or its own. `vanished` is what only Slurm knows of its tasks.
    """

    step: Step
    temper: Temper
    number: int
    tasks: list[Task] = field(default_factory=list)
    alive: bool = True
    failing: bool = False
    code: int | None = None
    signal: int | None = None
    ended: float = float("inf")
    fault: str = ""
    vanished: list[News] = field(default_factory=list)

    def note_end(self, code: int | None, number: int | None, fault: str, at: float) -> None:
        """An end that is told; the first of them counts."""
        if at < self.ended:
            self.code, self.signal, self.fault, self.ended = code, number, fault, at


class Cluster:
    """One deployment on its nodes. `inbox` holds what the supervisor hears next, with what it truly tells."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.line = Timeline()
        self.random = Random(2 * scene.seed + 1)
        self.inbox: deque[tuple[messages.Input, News | None]] = deque()
        self.launches: dict[str, Launch] = {}
        self.tasks: dict[str, Task] = {}
        self.passed = False
        self.ended_by_slurm = _NEVER
        self.away_until = 0.0
        self.cut_until: dict[int, float] = {}
        self.dead: dict[int, str] = {}
        self._steps = {step.name: step for step in scene.plan.steps}
        self._names = _task_names(scene)
        self._servers = frozenset(server.name for server in scene.plan.servers)
        self._leaders = {f"{server.name}.0": server.name for server in scene.plan.servers}
        programs = sum(step.kind in ("router", "front") for step in scene.plan.steps)
        self._wanted = len(scene.plan.servers) + programs
        self._up: dict[str, Task] = {}
        self._prover: Task | None = None
        self._moved: dict[int, int] = {}
        used = 1 + max(node for step in scene.plan.steps for node in step.nodes)
        self._spares = list(range(used, scene.plan.allocation.nodes))
        self._succession = 0
        self._certificates = Certificates(scene.seed)
        self._order = itertools.count()
        self._records: list[tuple[float, int, messages.Input, News | None, Launch | None]] = []
        self._looks: set[int] = set()
        self._looked = 0.0

    # What the supervisor says, done.

    def perform(self, action: messages.Action) -> None:
        """Do what the supervisor says."""
        _PERFORM[type(action)](self, action)

    def _nothing(self, action: messages.Action) -> None:
        """Nothing of the cluster's."""

    def _resolve(self, action: messages.Resolve) -> None:
        answer: messages.Input = messages.Resolved(action.service)
        if self.scene.unresolved and not action.service:
            answer = messages.Unresolved("", "node n1 has no address")
        self.line.after(self.random.uniform(0.01, 0.5), partial(self.hear, answer))

    def _start(self, action: messages.Start) -> None:
        name, temper = action.step, self.scene.tempers[action.step]
        number = self.launches[name].number + 1 if name in self.launches else 1
        launch = Launch(self._steps[name], temper, number)
        if temper.refusal == "launch":
            launch.alive = False
            event = messages.StartFailed(name, "its file is missing", EPOCH + self.line.now)
            self.hear(event, self.news(f"temper of {name}", name, name, True))
            return
        self.launches[name] = launch
        wait = temper.begins + (max(0.0, self.away_until - self.line.now) if self.scene.slurm else 0.0)
        for task_name, node in zip(self._names[name], launch.step.nodes):
            task = self.tasks[task_name] = Task(task_name, self._moved.get(node, node), launch)
            launch.tasks.append(task)
            self.line.after(wait + self.random.uniform(0.0, 0.05), partial(self._begins, task))

    def _probe(self, action: messages.Probe) -> None:
        launch = self.launches.get(action.step)
        if launch is not None and launch.alive and launch.temper.exits is None and launch.number > launch.temper.taken:
            pace = self.random.uniform(0.06, 0.3)
            self.line.after(launch.temper.begins + launch.temper.up + pace, partial(self._answers, launch))

    def _answers(self, launch: Launch) -> None:
        if launch.alive and launch.tasks[0].begun and launch.tasks[0].alive:
            self.hear(messages.Healthy(launch.step.name, f"sim://{launch.step.name}"))

    def _test_port(self, action: messages.TestPort) -> None:
        launch = self.launches[action.step]
        gave_up = launch.signal is None and launch.code is not None and launch.code <= 128
        # What was killed may listen for a moment.
        taken = launch.number <= launch.temper.taken if gave_up else self.random.random() < 0.3
        again = taken and gave_up and launch.number < self.scene.settings.port_attempts
        news = None if again else self.news(launch.fault, action.step, action.step, True)
        self.hear(messages.PortTested(action.step, taken), news)

    def _renew(self, action: renewal_messages.Renew) -> None:
        after, found = self._certificates.answer()
        self.line.after(after, partial(self.hear, found))

    def _signal(self, action: messages.Signal) -> None:
        if is_news(action):
            return
        self.line.after(self._reach(), partial(self._signalled, self.launches.get(action.step), action.number))

    def _signalled(self, launch: Launch | None, number: int) -> None:
        if launch is None or not launch.alive:
            return
        if not any(task.begun for task in launch.tasks):
            self.line.after(launch.temper.stops, partial(self.launcher_ends, launch, None, number, ASKED))
        for task in launch.tasks:
            self._stops(task, number, ASKED)

    def _signal_task(self, action: messages.SignalTask) -> None:
        task = self.tasks.get(action.task)
        if task is not None:
            self.line.after(self._reach(), partial(self._stops, task, action.number, ASKED))

    def _reach(self) -> float:
        """How long a signal takes to the tasks: through Slurm it needs the controller."""
        if not self.scene.slurm:
            return self.random.uniform(0.0, 0.005)
        return self.random.uniform(0.02, 0.2) + max(0.0, self.away_until - self.line.now)

    def _stops(self, task: Task, number: int, fault: str) -> None:
        if task.begun and task.alive and not task.frozen:
            code, by = self.random.choice(((0, None), (128 + number, None), (None, number)))
            self.line.after(task.launch.temper.stops, partial(self.end_task, task, code, by, fault))

    def _kill(self, action: messages.Kill) -> None:
        launch = self.launches.get(action.step)
        if launch is not None:
            self.line.after(launch.temper.dies, partial(self._killed, launch))

    def _killed(self, launch: Launch) -> None:
        for task in launch.tasks:
            task.alive = False
        self.launcher_ends(launch, None, 9, ASKED)

    def _sweep(self, action: messages.Sweep) -> None:
        unkillable = any(task.alive and task.launch.temper.dies == _NEVER for task in self.tasks.values())
        self.line.after(2.1 if unkillable else self.random.uniform(0.01, 0.3), self._swept)

    def _swept(self) -> None:
        for launch in self.launches.values():
            launch.alive = False
            for task in launch.tasks:
                task.alive = task.alive and launch.temper.dies == _NEVER
        self.hear(messages.Swept(tuple(task.name for task in self.tasks.values() if task.alive)))

    def _find_killed(self, action: messages.FindKilled) -> None:
        launch = self.launches[action.step]
        while launch.vanished:
            wait = self.random.uniform(0.0, 0.9 * self.scene.settings.peer_settle)
            self.line.after(wait, partial(self._found_killed, launch, launch.vanished.pop()))

    def _withdraw(self, action: messages.Withdraw) -> None:
        self.line.after(self.random.uniform(0.01, 1.6), partial(self.hear, messages.Withdrawn(action.step)))

    def _place(self, action: messages.Place) -> None:
        """Spares take the numbers of nodes that are down."""
        self.line.after(self.random.uniform(0.05, 0.7), partial(self.hear, messages.Placed(action.step)))
        for number in self._steps[action.step].nodes:
            if self._moved.get(number, number) in self.dead and self._spares:
                self._moved[number] = self._spares.pop()

    def _found_killed(self, launch: Launch, news: News) -> None:
        if self.launches[news.step] is launch:
            self.hear(messages.TaskGone(news.step, news.name, EPOCH + self.line.now), news)

    def _succeed(self, action: handover_messages.Succeed) -> None:
        """Slurm takes the job or not, and it comes up or not, or not while anybody waits."""
        self._succession += 1
        say = partial(self._of_successor, self._succession)
        lost = handover_messages.SuccessorLost("it failed")
        asked = self.random.uniform(0.1, 2.0)
        if self.random.random() < 0.2:
            self.line.after(asked, partial(say, lost))
            return
        self.line.after(asked, partial(say, handover_messages.SuccessorAsked("next", "8")))
        ready = handover_messages.SuccessorReady("next", "8", self.random.uniform(1.0, 60.0))
        wait = self.random.choice((_NEVER, self.random.uniform(1.0, 60.0), self.random.uniform(1.0, 10.0)))
        self.line.after(asked + wait, partial(say, self.random.choice((ready, ready, lost))))

    def _of_successor(self, number: int, event: messages.Input) -> None:
        if number == self._succession:
            self.hear(event)

    def _call_off(self, action: handover_messages.CallOff) -> None:
        self._succession += 1

    # What happens on the nodes.

    def _begins(self, task: Task) -> None:
        launch = task.launch
        if not launch.alive or not task.alive or self.line.now >= self.ended_by_slurm:
            return
        if task.node in self.dead:
            self.fail(launch, self.dead[task.node], 1)
            return
        task.begun = True
        temper, step = launch.temper, launch.step
        if temper.refusal == "task":
            event = messages.TaskRefused(step.name, task.name, "belongs elsewhere", EPOCH + self.line.now)
            self.record(task.node, event, self.news(f"temper of {step.name}", task.name, step.name, True), launch)
            task.alive = False
            self.fail(launch, f"temper of {step.name}", 3)
            return
        self.record(task.node, messages.TaskBegan(step.name, task.name), launch=launch)
        code = 1 if launch.number <= temper.taken else temper.exits
        if code is not None:
            end = partial(self.end_task, task, code, None, f"temper of {step.name}", itself=True)
            self.line.after(self.random.uniform(0.02, 0.5), end)
        elif step.kind != "service":
            up = temper.up if launch.number == 1 or temper.later is None else temper.later
            self.line.after(up, partial(self._serves, task))

    def _serves(self, task: Task) -> None:
        if not task.alive:
            return
        kind = task.launch.step.kind
        if kind == "canary":
            self._prompts(task)
            return
        name = self._leaders.get(task.name) if kind == "workers" else task.name
        if name is not None:
            for rung in ("engine", "registered", "answering"):
                self.record(task.node, messages.Reached(name, rung))
            self._up[name] = task
            if self._prover is not None:
                self.line.after(self.random.uniform(0.05, 1.0), partial(self._proves, name, task))

    def _prompts(self, canary: Task) -> None:
        """Try until every server and program serves; one that is started again proves those that came meanwhile."""
        if not canary.alive:
            return
        if self.passed:
            self._prover = canary
            for name, task in self._up.items():
                self._proves(name, task)
            return
        if not self._all_up():
            self.line.after(0.5, partial(self._prompts, canary))
            return
        for server in self.scene.plan.servers:
            self.record(canary.node, messages.Reached(server.name, "canary"))
        self.passed = True
        self.record(canary.node, messages.CameReady())
        if self.scene.plan.servers_return:
            self._prover = canary
        if not self.scene.plan.canary_stays:
            self.line.after(0.01, partial(self.end_task, canary, 0, None, ASKED))

    def _all_up(self) -> bool:
        if len(self._up) < self._wanted:
            return False
        services = [launch for launch in self.launches.values() if launch.step.kind == "service"]
        return all(map(_well, {task.launch.step.name: task.launch for task in self._up.values()}.values())) and all(
            map(_well, services)
        )

    def _proves(self, name: str, task: Task) -> None:
        """A prompt crosses a server that came back."""
        canary = self._prover
        if canary is not None and canary.alive and task.alive and _well(task.launch) and name in self._servers:
            self.record(canary.node, messages.Reached(name, "canary"))

    def end_task(
        self, task: Task, code: int | None, number: int | None, fault: str, itself: bool = False, told: bool = True
    ) -> None:
        """The program of a task ends; its shim tells so, if it still can."""
        if not task.alive:
            return
        task.alive = False
        launch = task.launch
        if told and task.begun:
            at = EPOCH + self.line.now + self.scene.ahead[task.node]
            launch.note_end(code, number, fault, self.line.now)
            event = messages.TaskEnded(launch.step.name, task.name, code, number, at)
            self.record(task.node, event, self.news(fault, task.name, launch.step.name, itself), launch)
        if code != 0:
            self.fail(launch, fault, 128 + (number or 0) if code is None else code)
        elif not any(task.alive for task in launch.tasks):
            self.line.after(self.random.uniform(0.005, 0.05), partial(self.launcher_ends, launch, 0, None, fault))
        self._strand(launch, fault)

    def fail(self, launch: Launch, fault: str, code: int) -> None:
        """The first process of a step has seen a task die: it ends the others, then itself."""
        if launch.failing or not launch.alive:
            return
        launch.failing = True
        self.line.after(self.random.uniform(0.03, 0.3), partial(self._ends_others, launch, fault, code))

    def _ends_others(self, launch: Launch, fault: str, code: int) -> None:
        if launch.temper.dies == _NEVER:
            return
        for task in launch.tasks:
            if task.node not in self.dead:
                self.end_task(task, None, 15, fault)
        self.line.after(self.random.uniform(0.005, 0.1), partial(self.launcher_ends, launch, code, None, fault))

    def launcher_ends(
        self, launch: Launch, code: int | None, number: int | None, fault: str, itself: bool = False
    ) -> None:
        """The first process of a step ends, which the supervisor sees at once."""
        if not launch.alive:
            return
        launch.alive = False
        name = launch.step.name
        seen = self.line.now if number is None else self._last_look()
        launch.note_end(code, number, fault, seen)
        self._look()
        self.hear(messages.StepEnded(name, code, number, EPOCH + seen), self.news(fault, name, name, itself))
        self._strand(launch, fault)

    def vanish(self, task: Task, fault: str, itself: bool) -> None:
        """A shim is gone and its program with it: seen at once on one machine, and told by Slurm when it is asked."""
        if not task.alive:
            return
        self.end_task(task, None, 9, fault, itself, told=False)
        news = self.news(fault, task.name, task.launch.step.name, itself)
        if self.scene.slurm:
            task.launch.vanished.append(news)
            return
        at = EPOCH + self._last_look()
        self._look()
        if self.launches[news.step] is task.launch:
            self.hear(messages.TaskGone(news.step, news.name, at), news)

    def _strand(self, launch: Launch, fault: str) -> None:
        """What talks through a service that died ends a little later, or when that does not come back for a while."""
        if launch.step.kind != "service" or fault in (ASKED, TERM):
            return
        for other in self.launches.values():
            for task in other.tasks if other.step.kind != "service" else ():
                if task.begun and task.alive:
                    wait = self.random.uniform(0.3, 3.0) + (8.0 if launch.step.restarts else 0.0)
                    self.line.after(wait, partial(self._stranded, launch, task, fault))

    def _stranded(self, launch: Launch, task: Task, fault: str) -> None:
        if self.launches[launch.step.name] is launch:
            self.end_task(task, 1, None, fault)

    def end_job(self, told: messages.EveryoneTerminated) -> None:
        """Slurm sends TERM to everything at once, and KILL after a while; services do not heed TERM."""
        if self.ended_by_slurm != _NEVER:
            return
        now = self.line.now
        self.ended_by_slurm = now
        for launch in self.launches.values():
            if launch.step.kind == "service" or not launch.alive:
                continue
            if not any(task.begun for task in launch.tasks):
                wait = self.random.uniform(0.01, 0.2)
                self.line.after(wait, partial(self.launcher_ends, launch, None, 15, TERM))
            for task in launch.tasks:
                self._stops(task, 15, TERM)
        self.line.after(self.random.uniform(0.0, 0.005), partial(self.hear, messages.SignalCame()))
        unknown = messages.EveryoneTerminated("the job was ended, and Slurm did not say why in time")
        self.line.after(self.random.uniform(0.02, 0.7), partial(self.hear, unknown if now < self.away_until else told))

    def overdue(self) -> bool:
        """Whether Slurm has sent KILL to everything, the supervisor included."""
        return self.line.now > self.ended_by_slurm + _KILL_WAIT

    # How the supervisor gets to know of it.

    def hear(self, event: messages.Input, news: News | None = None) -> None:
        """The supervisor hears something now."""
        self.inbox.append((event, news))

    def news(self, fault: str, name: str, step: str, itself: bool) -> News:
        """What is true of an end at this moment."""
        return News(fault, name, step, self.line.now, itself)

    def record(self, node: int, event: messages.Input, news: News | None = None, launch: Launch | None = None) -> None:
        """A line in a file of a node: seen late, and later while the network is cut; not any more once what it is about
        was started again."""
        visible = max(self.line.now + self.scene.lags[node], self.cut_until.get(node, 0.0))
        heapq.heappush(self._records, (visible, next(self._order), event, news, launch))
        look = int(visible / _LOOK) + 1
        if look not in self._looks:
            self._looks.add(look)
            self.line.after(look * _LOOK - self.line.now, self._look)

    def _look(self) -> None:
        self._looked = self.line.now
        while self._records and self._records[0][0] <= self.line.now:
            _, _, event, news, launch = heapq.heappop(self._records)
            if launch is None or self.launches[launch.step.name] is launch:
                self.hear(event, news)

    def _last_look(self) -> float:
        """When the supervisor last looked at processes: ten times a second, and whenever something ended."""
        return max(self._looked, int(self.line.now / _LOOK) * _LOOK)


def _well(launch: Launch) -> bool:
    return launch.alive and not launch.failing and all(task.alive for task in launch.tasks)


def _task_names(scene: Scene) -> dict[str, list[str]]:
    """The tasks of each step: its ranks, or one of the step's own name."""
    ranks = {server.name: [f"{server.name}.{rank.rank}" for rank in server.ranks] for server in scene.plan.servers}
    named = {step.name: [rank for name in step.servers for rank in ranks[name]] for step in scene.plan.steps}
    return {name: tasks or [name] for name, tasks in named.items()}


_PERFORM: dict[type, Callable[[Cluster, Any], None]] = {
    messages.Resolve: Cluster._resolve,
    messages.Start: Cluster._start,
    messages.Probe: Cluster._probe,
    messages.TestPort: Cluster._test_port,
    messages.FindKilled: Cluster._find_killed,
    messages.Signal: Cluster._signal,
    messages.SignalTask: Cluster._signal_task,
    messages.Kill: Cluster._kill,
    messages.Announce: Cluster._nothing,
    messages.Withdraw: Cluster._withdraw,
    messages.Place: Cluster._place,
    messages.Restarting: Cluster._nothing,
    messages.WrittenOff: Cluster._nothing,
    messages.Drained: Cluster._nothing,
    messages.Refuse: Cluster._nothing,
    messages.Sweep: Cluster._sweep,
    messages.Conclude: Cluster._nothing,
    messages.Finish: Cluster._nothing,
    handover_messages.Succeed: Cluster._succeed,
    handover_messages.HandOver: Cluster._nothing,
    handover_messages.CallOff: Cluster._call_off,
    renewal_messages.Renew: Cluster._renew,
}
