"""Performs what the state machine decides and tells it what happens: the only part with processes, files and clocks.

One asyncio loop. It wakes when a watched process ends (at once), ten times a second for event files and requests, at
the machine's next deadline, and on signals. Standard library, Python 3.9.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtdist.errors import TrtdistError
from trtdist.events import (
    CanaryFailed,
    ControlRefused,
    ControlTaken,
    Drained,
    EndpointUp,
    EngineSilent,
    Event,
    EventReader,
    Ready,
    Record,
    Restarting,
    Rung,
    RunState,
    Stalled,
    StepExited,
    StepStarted,
    TaskExited,
    TaskRefused,
    TaskSeen,
    TaskStarted,
    TaskUnwell,
    WrittenOff,
)
from trtdist.plan import Plan, Step
from trtdist.process import ProcessId
from trtdist.rundir import RunDir, write_atomic
from trtdist.supervisor import control, facts, handover_messages, messages, renewal_messages, verdict
from trtdist.supervisor.certificates import looked_at
from trtdist.supervisor.hangs import Hangs, awaited
from trtdist.supervisor.head import Head
from trtdist.supervisor.journal import Journal, from_supervisor
from trtdist.supervisor.launcher import Ended, Gone, Launcher, LaunchError
from trtdist.supervisor.lives import Lives
from trtdist.supervisor.logwatch import LogWatch
from trtdist.supervisor.machine import advance, next_deadline
from trtdist.supervisor.remains import Remains, local_folder
from trtdist.supervisor.stalls import pace
from trtdist.supervisor.state import OVER, READY, initial
from trtdist.supervisor.succeeding import Succeeding
from trtdist.supervisor.surroundings import Alone, Surroundings

__all__ = ["STOP_SIGNALS", "Supervisor", "Tools"]

TICK = 0.1
_PROBE_FIRST, _PROBE_LAST = 0.02, 0.25
_SWEEP_PATIENCE = 2.0
_LOOK_PATIENCE = 5.0
_ENDS = (messages.StepEnded, messages.TaskEnded, messages.TaskGone)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class Tools:
    """What a supervisor works with.

    `strays` finds processes that descend from it although nobody recorded them.
    """

    launcher: Launcher
    head: Head
    journal: Journal
    around: Surroundings = field(default_factory=Alone)
    strays: Callable[[], list[ProcessId]] = list


class Supervisor:
    """One run, from its first step to its verdict."""

    def __init__(self, run: RunDir, plan: Plan, settings: facts.Settings, tools: Tools) -> None:
        self._run = run
        self._plan = plan
        self._tools = tools
        self._journal = tools.journal
        self._state = initial(plan, settings)
        self._inbox: deque[messages.Input] = deque()
        self._events = EventReader(run.events, skip=from_supervisor)
        self._requests = control.ControlReader(run, control.taken_before(run))
        # What was told before this supervisor was there is about an earlier attempt of the same run.
        self._events.poll()
        self._told: set[tuple[str, int]] = set()
        self._lives = Lives(plan.steps)
        self._asked_of: dict[str, asyncio.Task[None]] = {}
        self._finding: set[asyncio.Task[None]] = set()
        self._errands: set[asyncio.Task[None]] = set()
        self._hangs = Hangs(plan, tools.head, lambda: awaited(self._state), self._ask_all)
        self._succeeding = Succeeding(run, tools.around, tools.head, tools.journal)
        self._timer: asyncio.TimerHandle | None = None
        self._broke = False

    async def supervise(self) -> int:
        """Run until the verdict is written; returns the exit code. Signals may be blocked before and are after."""
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[int] = self._loop.create_future()
        self._slow: verdict.Slow | None = None
        self._full: Path | None = None
        self._loop.set_exception_handler(self._failed)
        for number in STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._on_signal, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._loop.add_reader(self._tools.launcher.fileno(), self._reconcile)
        self._loop.call_soon(self._tick)
        self._feed(messages.Begin())
        self._errand(self._follow(self._tools.around.news()))
        self._errand(self._watch_logs(pace(self._state.settings.stall_timeout)))
        self._errand(self._watch_hangs())
        try:
            return await self._finished
        finally:
            # The loop takes its handlers along; a late signal must not end what is ending.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            self._loop.remove_reader(self._tools.launcher.fileno())
            for errand in self._errands:
                errand.cancel()

    # What happens, told to the machine.

    def _feed(self, *inputs: messages.Input) -> None:
        """Tell the machine, in order, and do what it says; what that leads to is told after it."""
        busy = bool(self._inbox)
        self._inbox.extend(inputs)
        if busy:
            return
        while self._inbox:
            self._state, actions = advance(self._state, self._inbox[0], self._loop.time())
            for action in actions:
                _PERFORM[type(action)](self, action)
            self._inbox.popleft()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = next_deadline(self._state)
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._feed, messages.Tick())

    def _tick(self) -> None:
        self._loop.call_later(TICK, self._tick)
        self._reconcile()
        for request in self._requests.poll():
            self._take(request)
        if self._journal.broken and not self._broke:
            self._broke = True
            self._feed(messages.Broke(self._journal.broken))

    def _reconcile(self) -> None:
        """Look at processes first and events after, so that a shim that told its end is not taken for vanished."""
        ends = self._tools.launcher.check()
        records = self._events.poll()
        inputs = [found for record in records for found in self._hear(record)]
        inputs += [found for end in ends for found in self._notice(end)]
        if any(isinstance(found, _ENDS) for found in inputs):
            inputs = [*self._hangs.services(), *inputs]
        if inputs:
            self._feed(*inputs)

    def _hear(self, record: Record) -> list[messages.Input]:
        event = record.event
        if not self._lives.concerns(record):
            return []
        if isinstance(event, TaskStarted):
            self._tools.launcher.adopt(event)
            return [messages.TaskBegan(event.step, event.name)]
        if isinstance(event, TaskExited):
            self._told.add((event.name, event.pid))
            orphaned = self._lives.orphaned(event)
            return [messages.TaskEnded(event.step, event.name, event.code, event.signal, record.time, orphaned)]
        if isinstance(event, (TaskRefused, TaskUnwell)):
            return [messages.TaskRefused(event.step, event.name, event.reason, record.time)]
        if isinstance(event, EngineSilent):
            self._hangs.engine_silent(event)
        if isinstance(event, TaskSeen):
            self._hangs.seen(event)
            return [messages.Seen(event.name, event.working, event.doing)]
        if isinstance(event, Rung):
            return [messages.Reached(event.name, event.rung)]
        if isinstance(event, CanaryFailed):
            return [messages.Unanswered(event.context, event.generation, event.reason, event.server)]
        if isinstance(event, Ready):
            return [messages.CameReady()]
        return []

    def _notice(self, end: Ended | Gone) -> list[messages.Input]:
        if isinstance(end, Gone):
            task = end.task
            if (task.name, task.pid) in self._told or not self._lives.has(task):
                return []
            self._journal.say(f"{task.name} vanished")
            return [messages.TaskGone(task.step, task.name, end.at)]
        self._journal.write(StepExited(end.step, end.code, end.signal))
        how = f"code {end.code}" if end.signal is None else f"signal {end.signal}"
        self._journal.say(f"step {end.step} ended: {how}")
        self._stop_asking(end.step)
        return [messages.StepEnded(end.step, end.code, end.signal, end.at)]

    def _take(self, request: control.Request) -> None:
        self._journal.write(ControlTaken(request.name, request.action, request.server))
        if request.action == control.DOWN:
            self._feed(messages.StopAsked(False, request.grace, "stopped by `trtdist down`"))
        elif request.action == control.INTERRUPT:
            self._feed(messages.StopAsked(True, request.grace, "interrupted"))
        elif request.action == control.DRAIN:
            self._feed(messages.DrainAsked(request.name, request.server, request.grace))
        else:
            self._journal.say(f"request {request.name} asks for {request.action!r}, which is not known; left alone")

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        self._journal.say(f"got {name}")
        self._feed(messages.SignalCame())
        self._errand(self._feed_later(self._tools.around.meaning(name)))

    async def _feed_later(self, coming: Awaitable[messages.Input]) -> None:
        self._feed(await coming)

    async def _follow(self, events: AsyncIterator[messages.Input]) -> None:
        """Hear what happens or is going to outside of the run."""
        async for event in events:
            self._feed(event)

    def _succeed(self, action: handover_messages.Succeed) -> None:
        self._journal.say("another run is asked for, to take over before the time limit")
        self._errand(self._follow(self._succeeding.follow()))

    async def _take_over(self) -> None:
        displaced = await self._succeeding.take_over()
        if displaced:
            self._feed(messages.StopAsked(False, None, displaced))

    def _hand_over(self, action: handover_messages.HandOver) -> None:
        self._errand(self._succeeding.tell_clients(action.run, self._state.settings.linger))

    def _call_off(self, action: handover_messages.CallOff) -> None:
        self._journal.say("the run that was to take over is called off")
        self._succeeding.call_off()

    def _renew(self, action: renewal_messages.Renew) -> None:
        self._errand(self._follow(looked_at(self._tools.head, self._journal)))

    async def _watch_logs(self, every: float) -> None:
        """Tell which logs grow, as long as the run comes up."""
        logs = LogWatch(self._run, [task for tasks in self._state.tasks.values() for task in tasks])
        while self._state.phase not in (READY, OVER):
            await asyncio.sleep(every)
            self._feed(messages.Moved(logs.grown(), await asyncio.to_thread(logs.how_far)))

    async def _watch_hangs(self) -> None:
        """Tell what is there and does nothing, once the run is ready."""
        while True:
            for hang in await self._hangs.find():
                if hang.step not in awaited(self._state).values():
                    continue  # what was told before has taken it along
                self._tell_stalled(messages.TellStalled(hang.stall))
                self._feed(hang.death)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An error of our own ends the run; the caller of `supervise` gets it."""
        error = context.get("exception") or RuntimeError(str(context.get("message")))
        if not self._finished.done():
            self._finished.set_exception(error)

    # What the machine says, done.

    def _resolve(self, action: messages.Resolve) -> None:
        finding = self._errand(self._find_ports(action.service))
        self._finding.add(finding)
        finding.add_done_callback(self._finding.discard)

    async def _find_ports(self, service: str) -> None:
        try:
            await self._tools.head.resolve(service)
        except (TrtdistError, OSError) as error:
            self._feed(messages.Unresolved(service, str(error)))
        else:
            self._feed(messages.Resolved(service))

    def _start(self, action: messages.Start) -> None:
        try:
            life = self._lives.begin(action.step)
            first = self._tools.launcher.start(self._state.steps[action.step].step, life)
        except LaunchError as error:
            self._inbox.append(messages.StartFailed(action.step, str(error), time.time()))
            return
        self._lives.launched(action.step, first.pid)
        self._journal.write(StepStarted(action.step, first.pid, first.started, life))
        self._journal.say(f"step {action.step} started, pid {first.pid}")

    def _probe(self, action: messages.Probe) -> None:
        self._stop_asking(action.step)
        self._asked_of[action.step] = self._errand(self._ask_health(action.step))

    async def _ask_health(self, service: str) -> None:
        """Until healthy, at a growing pace; cancelled when the step ends or a stop begins."""
        pause = _PROBE_FIRST
        url = await self._tools.head.healthy(service)
        while url is None:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PROBE_LAST)
            url = await self._tools.head.healthy(service)
        self._journal.write(EndpointUp(service, url))
        self._journal.write(Rung(service, "answering", url))
        self._feed(messages.Healthy(service, url))

    def _stop_asking(self, step: str) -> None:
        task = self._asked_of.pop(step, None)
        if task is not None:
            task.cancel()

    def _test_port(self, action: messages.TestPort) -> None:
        self._inbox.append(messages.PortTested(action.step, self._tools.head.port_taken(action.step)))

    def _examine(self, action: messages.Examine) -> None:
        self._ask_all()

    def _ask_all(self) -> None:
        self._journal.say("asking all tasks what they do")
        try:
            self._run.stacks.mkdir(mode=0o700, exist_ok=True)
            write_atomic(self._run.stacks / "ask", f"{time.time()}\n")
        except OSError as error:
            self._journal.say(f"they cannot be asked: {error.strerror}")

    def _tell_stalled(self, action: messages.TellStalled) -> None:
        self._journal.write(Stalled(**vars(action.stall)))
        self._journal.say(f"{action.stall.server} makes no progress; {action.stall.task} {action.stall.how}")

    def _find_killed(self, action: messages.FindKilled) -> None:
        self._errand(self._ask_killed(self._plan.step(action.step)))

    async def _ask_killed(self, step: Step) -> None:
        """The launch line may tell a moment later than the neighbours do."""
        until = self._loop.time() + self._state.settings.peer_settle
        while not (numbers := self._tools.launcher.killed(step.name)) and self._loop.time() < until:
            await asyncio.sleep(TICK)
        told = {name for name, _ in self._told}
        names = [name for number, name in enumerate(self._plan.tasks(step)) if number in numbers]
        self._feed(*(messages.TaskGone(step.name, name, time.time()) for name in names if name not in told))

    def _signal(self, action: messages.Signal) -> None:
        self._journal.say(f"{signal.Signals(action.number).name} to step {action.step}")
        self._stop_asking(action.step)
        if action.within:
            self._grant(action.step, action.within)
        self._tools.launcher.signal(action.step, action.number)

    def _grant(self, step: str, seconds: float) -> None:
        """Tell a step how long it may take to end; without that it takes as long as it was made to."""
        try:
            write_atomic(self._run.patience(step), f"{seconds:.3f}\n")
        except OSError as error:
            self._journal.say(f"cannot write {self._run.patience(step)}: {error.strerror}")

    def _withdraw(self, action: messages.Withdraw) -> None:
        self._errand(self._have_nobody_find(action.step))

    async def _have_nobody_find(self, step: str) -> None:
        await self._tools.head.withdraw(self._plan.step(step).servers or (step,))
        self._feed(messages.Withdrawn(step))

    def _place(self, action: messages.Place) -> None:
        self._errand(self._find_nodes(action.step))

    async def _find_nodes(self, step: str) -> None:
        moved = await self._tools.around.place(self._plan.step(step))
        if moved:
            self._journal.say(moved)
        self._feed(messages.Placed(step))

    def _restarting(self, action: messages.Restarting) -> None:
        self._tell(Restarting(action.step, action.attempt, action.most, action.reason, action.pause), action.reason)
        self._journal.say(f"step {action.step} is started again ({action.attempt} of {action.most})")

    def _written_off(self, action: messages.WrittenOff) -> None:
        self._tell(WrittenOff(action.step, action.reason), f"{action.reason}; the run goes on without it")

    def _drained(self, action: messages.Drained) -> None:
        self._tell(Drained(action.step, action.reason), action.reason)

    def _refuse(self, action: messages.Refuse) -> None:
        self._tell(ControlRefused(action.request, action.reason), action.reason)

    def _tell(self, event: Event, line: str) -> None:
        self._journal.write(event)
        self._journal.say(line)

    def _signal_task(self, action: messages.SignalTask) -> None:
        self._tools.launcher.signal_task(action.step, action.task, action.number)

    def _kill(self, action: messages.Kill) -> None:
        self._journal.say(f"KILL to step {action.step}")
        self._tools.launcher.kill(action.step)

    def _announce(self, action: messages.Announce) -> None:
        detail = action.detail
        if action.behind:
            # Before anything is stopped, which has its own last words.
            self._slow = verdict.slowest(self._run, self._plan, action.behind)
            detail += "" if self._slow is None else self._slow.said
        if action.state in ("FAILED", "TIMEOUT"):
            self._full = verdict.full_disk(self._run)
        if action.state == "READY":
            self._errand(self._take_over())
        self._journal.write(RunState(action.state, detail))
        self._journal.say(f"{action.state} {detail}".rstrip())

    def _conclude(self, action: messages.Conclude) -> None:
        try:
            told = verdict.compose(action.outcome, self._run, self._plan, self._slow, self._full)
            verdict.write_once(self._run, told)
        except OSError as error:
            self._journal.say(f"{action.outcome.state}: {action.outcome.reason}")
            self._journal.say(f"cannot write {self._run.verdict}: {error.strerror}")

    def _sweep(self, action: messages.Sweep) -> None:
        self._errand(self._sweep_up(action.elsewhere))

    async def _sweep_up(self, elsewhere: bool) -> None:
        """Kill by exact identity what was recorded and still runs, and whatever else descends from us."""
        if elsewhere and self._finding:
            # What looks at the nodes makes folders there, also after they were removed.
            await asyncio.wait(self._finding, timeout=_LOOK_PATIENCE)
        remains = self._remains()
        until = self._loop.time() + _SWEEP_PATIENCE
        while remains.alive() and self._loop.time() < until:
            remains.signal(signal.SIGKILL)
            await asyncio.sleep(0.01)
            remains = self._remains()
        remains.remove_folder()
        left = await self._tools.around.clean() if elsewhere else ()
        # Last, since Slurm may let us wait, and ends us meanwhile.
        await self._succeeding.settled()
        self._feed(messages.Swept((*remains.left(), *left)))

    def _remains(self) -> Remains:
        strays = [("a process that nobody recorded", process) for process in self._tools.strays()]
        return Remains((*self._tools.launcher.recorded(), *strays), local_folder(self._run))

    def _finish(self, action: messages.Finish) -> None:
        if not self._finished.done():
            self._finished.set_result(action.exit_code)

    def _errand(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._ran)
        return task

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failed(self._loop, {"exception": error})


_PERFORM: dict[type, Callable[[Supervisor, Any], None]] = {
    messages.Resolve: Supervisor._resolve,
    messages.Start: Supervisor._start,
    messages.Probe: Supervisor._probe,
    messages.TestPort: Supervisor._test_port,
    messages.Examine: Supervisor._examine,
    messages.TellStalled: Supervisor._tell_stalled,
    messages.FindKilled: Supervisor._find_killed,
    messages.Signal: Supervisor._signal,
    messages.SignalTask: Supervisor._signal_task,
    messages.Kill: Supervisor._kill,
    messages.Withdraw: Supervisor._withdraw,
    messages.Place: Supervisor._place,
    messages.Restarting: Supervisor._restarting,
    messages.WrittenOff: Supervisor._written_off,
    messages.Drained: Supervisor._drained,
    messages.Refuse: Supervisor._refuse,
    messages.Announce: Supervisor._announce,
    messages.Sweep: Supervisor._sweep,
    messages.Conclude: Supervisor._conclude,
    messages.Finish: Supervisor._finish,
    handover_messages.Succeed: Supervisor._succeed,
    handover_messages.HandOver: Supervisor._hand_over,
    handover_messages.CallOff: Supervisor._call_off,
    renewal_messages.Renew: Supervisor._renew,
}
