"""The state of a run: what its events say, corrected by what is still alive. Pure: the same facts, the same state.

    PREPARING -> PENDING -> STARTING -> READY -> STOPPING -> STOPPED | FAILED | INTERRUPTED | TIMEOUT

A verdict is final. Without one, a run whose supervisor is gone is FAILED (LOST when the machine itself was restarted),
as is one whose job of Slurm's is over, and a READY run one of whose processes is gone, whatever the last event says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trtdist.events import RUNGS
from trtdist.observe.history import History, TaskHistory
from trtdist.plan import Plan, Rank, Server, Step
from trtdist.process import ProcessId
from trtdist.slurm import states
from trtdist.supervisor import deaths
from trtdist.supervisor.verdict import log_name

__all__ = [
    "FINAL_STATES",
    "RUN_STATES",
    "TASK_STATES",
    "Alive",
    "Failure",
    "JobLook",
    "Machine",
    "RankStatus",
    "RunStatus",
    "ServerStatus",
    "ServiceStatus",
    "failure_of",
    "reconcile",
]

RUN_STATES = (
    "PREPARING", "PENDING", "STARTING", "READY", "STOPPING", "STOPPED", "FAILED", "INTERRUPTED", "TIMEOUT", "LOST",
    "MANUAL",
)  # fmt: skip
FINAL_STATES = frozenset({"STOPPED", "FAILED", "INTERRUPTED", "TIMEOUT", "LOST"})
# From the worst to the best: a server is in the worst state of its ranks.
TASK_STATES = (
    "FAILED", "LOST", "LEFT", "RESTARTING", "STOPPING", "UNSTARTED", "WAITING", "STARTING", "READY", "STOPPED", "DONE",
)  # fmt: skip

# Whether a process of a host still runs; None when that cannot be told from here.
Alive = Callable[[str, ProcessId], "bool | None"]

_PREPARING_LIMIT = 60.0
# A verdict that was written on another machine may show up so much later.
_LATE_VERDICT = 10.0


@dataclass(frozen=True)
class JobLook:
    """What Slurm says of a run's job: `phase` is one of `trtdist.slurm.states`, `detail` a sentence.

    `starts` is when a waiting job is expected to start, `ended` when one that is over ended, in seconds since the
    epoch; None when Slurm does not say.
    """

    id: str
    phase: str
    detail: str
    starts: float | None = None
    ended: float | None = None


@dataclass(frozen=True)
class Machine:
    """What the reader sees beside the events: times in seconds since the epoch.

    `created` is when the run directory was written, `booted` when this machine was started, `job` what Slurm says of
    the run's job, None without one or without an answer. `lost` is the node of the supervisor when Slurm says that is
    down, which a supervisor that is seen alive, or was heard of a moment ago, refutes.
    """

    alive: Alive
    now: float
    created: float = 0.0
    booted: float = 0.0
    job: JobLook | None = None
    lost: str = ""


@dataclass(frozen=True)
class Failure:
    """Why a run failed: one sentence, and the process that died first ("" when it was none), with its end."""

    reason: str
    name: str = ""
    step: str = ""
    code: int | None = None
    signal: int | None = None
    time: float | None = None
    log: str = ""
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankStatus:
    """One MPI rank. `node` is the host once it is known, else "node N"; `log` is relative to the run directory."""

    name: str
    server: str
    role: str
    rank: int
    leader: bool
    node: str
    gpu: int
    pid: int | None
    state: str
    log: str


@dataclass(frozen=True)
class ServerStatus:
    """One engine: the worst state of its ranks and the highest rung of RUNGS that it reached ("" for none).

    `version` is what its engine says of itself, "" until it is loaded; `restarts` is how often it was started again.
    """

    name: str
    role: str
    state: str
    rung: str
    version: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class ServiceStatus:
    """One step that is no server: a head service, the router or the canary."""

    name: str
    kind: str
    node: str
    pid: int | None
    state: str
    rung: str
    log: str
    restarts: int = 0


@dataclass(frozen=True)
class RunStatus:
    """A run at one instant; times in seconds since the epoch, None for what has not happened."""

    name: str
    state: str
    detail: str
    begun: float | None
    ready: float | None
    ended: float | None
    supervisor_pid: int | None
    supervisor_alive: bool | None
    servers: tuple[ServerStatus, ...]
    ranks: tuple[RankStatus, ...]
    services: tuple[ServiceStatus, ...]
    failure: Failure | None
    job: JobLook | None = None


def reconcile(plan: Plan, history: History, verdict: Mapping[str, Any] | None, machine: Machine) -> RunStatus:
    """The state of a run from its plan, its folded events, its verdict and what is alive."""
    return _Reconciler(plan, history, verdict, machine).status()


class _Reconciler:
    """Holds the four facts, so that each question about them is one small method."""

    def __init__(self, plan: Plan, history: History, verdict: Mapping[str, Any] | None, machine: Machine) -> None:
        self.plan = plan
        self.history = history
        self.verdict = verdict
        self.machine = machine
        self.steps = {step.name: step for step in plan.steps}
        self.draining = set(history.draining.values())
        self.supervisor_alive = self._supervisor_alive()
        self.over = verdict is not None or self.supervisor_alive is False
        self.by_hand = history.supervisor is None and not history.state and bool(history.tasks)
        self.first = self._first()

    def status(self) -> RunStatus:
        state, detail = self._run_state()
        ranks = tuple(self._rank(server, rank, state) for server in self.plan.servers for rank in server.ranks)
        supervisor = self.history.supervisor
        return RunStatus(
            name=self.plan.name,
            state=state,
            detail=detail,
            begun=self.history.begun,
            ready=self.history.ready,
            ended=self._ended(state),
            supervisor_pid=supervisor.pid if supervisor else None,
            supervisor_alive=self.supervisor_alive,
            servers=tuple(self._server(server, ranks) for server in self.plan.servers),
            ranks=ranks,
            services=tuple(self._service(step, state) for step in self.plan.steps if step.kind != "workers"),
            failure=self._failure(state, detail),
            job=self.machine.job,
        )

    def _supervisor_alive(self) -> bool | None:
        supervisor = self.history.supervisor
        if supervisor is None:
            return None
        if self._job_over():
            return False
        alive = self.machine.alive(supervisor.host, ProcessId(supervisor.pid, supervisor.started))
        heard = self.machine.now < self.history.supervisor_last + _LATE_VERDICT
        return False if self.machine.lost and not alive and not heard else alive

    def _job_over(self) -> bool:
        """Whether the run's job is over, and a verdict would be seen by now."""
        job = self.machine.job
        if job is None or job.phase != states.ENDED:
            return False
        return job.ended is None or self.machine.now > job.ended + _LATE_VERDICT

    def _gone(self, task: TaskHistory) -> bool:
        """Whether a task and its shim are gone although nothing told its end."""
        start = task.start
        if self._job_over():
            return task.exit is None
        program = self.machine.alive(start.host, ProcessId(start.pid, start.started))
        shim = self.machine.alive(start.host, ProcessId(start.shim_pid, start.shim_started))
        return task.exit is None and program is False and shim is False

    def _unasked(self, death: deaths.Death) -> bool:
        """Whether something ended before anybody asked for it; a canary may end when it has passed."""
        step = self.steps.get(death.step)
        canary_done = death.step == "canary" and death.code == 0 and not self.plan.canary_stays
        if self.by_hand or canary_done or (step is not None and self.draining.intersection(step.servers)):
            return False
        return self.history.asked is None or death.at < self.history.asked

    def _first(self) -> Failure | None:
        """Who died first, from the verdict, else from the events: exits have times, what vanished has none."""
        if self.verdict is not None:
            return failure_of(self.verdict)
        ends = [death for death in self._ends() if self._unasked(death) and not self._survived(death.step)]
        ends = [death for death in ends if self.supervisor_alive is not False or self._outlived(death)]
        if ends:
            return self._failure_by(deaths.first_of(ends))
        if self.supervisor_alive is False:
            return self._supervisor_died()
        tasks = [task for task in self.history.tasks.values() if self._gone(task)]
        vanished = [task.start for task in tasks if not self._survived(task.start.step)]
        if vanished and self.history.asked is None:
            return self._failure_by(deaths.of_gone(vanished[0].step, vanished[0].name, 0.0))
        return None

    def _failure_by(self, death: deaths.Death) -> Failure:
        """In the words of the verdict that is about to come."""
        reason, log = deaths.failure(death).reason, f"logs/{log_name(self.plan, death)}.log"
        return Failure(reason, death.name, death.step, death.code, death.signal, death.at or None, log)

    def _ends(self) -> Iterator[deaths.Death]:
        """The ends of tasks, then of the first processes of steps."""
        for task in self.history.tasks.values():
            if task.exit is not None:
                yield _death(task)
        for name, step in self.history.steps.items():
            if step.exit is not None and name in self.steps:
                yield deaths.of_step(self.steps[name], step.exit.code, step.exit.signal, step.exited)

    def _survived(self, name: str) -> bool:
        """Whether the run goes on without a step, or its supervisor does something about its end; one that ends the run
        of it will say so."""
        if name in self.history.written_off:
            return True
        step = self.steps.get(name)
        watched = self.supervisor_alive is not False and self.history.state in ("READY", "STARTING")
        return watched and step is not None and (step.restarts > 0 or not step.critical)

    def _outlived(self, death: deaths.Death) -> bool:
        """Whether the supervisor still wrote something when that had ended."""
        return self.history.supervisor_last >= death.at

    def _supervisor_died(self) -> Failure | None:
        supervisor = self.history.supervisor
        if supervisor is None:
            return None
        if self._job_over() and self.machine.job is not None:
            return Failure(self.machine.job.detail, log="logs/supervisor.log")
        if self.machine.lost:
            kept = "Slurm keeps the job with the nodes that are left until `trtdist down`"
            return Failure(f"{self.machine.lost}, where the supervisor ran, is down; {kept}", log="logs/supervisor.log")
        if self.machine.booted > self.history.last:
            return Failure(f"{supervisor.host} was restarted while the run was up", log="logs/supervisor.log")
        reason = f"the supervisor (pid {supervisor.pid}) died first; `trtdist down` removes what it left"
        return Failure(reason, "supervisor", log="logs/supervisor.log")

    def _run_state(self) -> tuple[str, str]:
        if self.verdict is not None:
            return str(self.verdict.get("state", "FAILED")), str(self.verdict.get("reason", ""))
        if self.by_hand:
            return self._by_hand()
        if self.history.supervisor is None and not self.history.state:
            return self._before_supervisor()
        if self.supervisor_alive is False:
            reason = self.first.reason if self.first else ""
            return ("LOST" if self.machine.booted > self.history.last else "FAILED"), reason
        state = self.history.state or "STARTING"
        if state == "READY" and self.first is not None:
            return "FAILED", self.first.reason
        if state == "READY" and self.history.asked is not None:
            return "STOPPING", self.history.detail
        return state, self.history.detail

    def _before_supervisor(self) -> tuple[str, str]:
        job = self.machine.job
        if job is not None and job.phase == states.WAITING:
            return "PENDING", job.detail
        if job is not None and self._job_over():
            return "FAILED", job.detail
        waited = self.machine.now - max(self.machine.created, self.history.last)
        if waited > _PREPARING_LIMIT:
            return "FAILED", "the supervisor never started; see logs/supervisor.log"
        return "PREPARING", ""

    def _by_hand(self) -> tuple[str, str]:
        """A person started the steps of the run, one by one."""
        if all(task.exit is not None or self._gone(task) for task in self.history.tasks.values()):
            return "STOPPED", "it was started by hand, without a supervisor, and nothing of it runs any more"
        return "MANUAL", "it was started by hand, without a supervisor"

    def _failure(self, state: str, detail: str) -> Failure | None:
        if state not in ("FAILED", "TIMEOUT", "LOST"):
            return None
        return self.first or Failure(detail or "the run failed")

    def _ended(self, state: str) -> float | None:
        if self.verdict is not None and isinstance(self.verdict.get("time"), (int, float)):
            return float(self.verdict["time"])
        over = state in FINAL_STATES and (self.over or self.history.supervisor is None)
        return self.history.last or self.machine.created or None if over else None

    def _task_state(self, name: str, ready: bool, run_state: str) -> str:
        task = self.history.tasks.get(name)
        if task is None:
            return "UNSTARTED" if self.over or run_state in FINAL_STATES else "WAITING"
        if task.exit is not None or self._gone(task):
            return self._end_state(task)
        if self.over and not self.supervisor_alive:
            return "LEFT" if self._left(task) else "STOPPED"
        if self.over or self.history.asked is not None or task.start.server in self.draining:
            return "STOPPING"
        return "READY" if ready else "STARTING"

    def _left(self, task: TaskHistory) -> bool:
        """Whether a task may be there although its run has ended; of another node the verdict tells what was left."""
        start = task.start
        program = self.machine.alive(start.host, ProcessId(start.pid, start.started))
        if program is None and self.verdict is not None:
            return any(start.name in left for left in self.verdict.get("left", ()))
        return True

    def _end_state(self, task: TaskHistory) -> str:
        step = task.start.step
        again = step not in self.history.written_off and task.start.server not in self.draining
        if self._survived(step) and again and self.steps[step].restarts:
            return "RESTARTING"
        return self._gone_state(task) if task.exit is None else self._exit_state(task)

    def _gone_state(self, task: TaskHistory) -> str:
        """KILL leaves no time to tell an end: what is gone when it was to end was killed by its run, unless it was the
        first, or Slurm or a node ended the run."""
        asked = self.history.asked is not None or task.start.server in self.draining
        return "LOST" if not asked or self._died_first() in ("", task.start.name) else "STOPPED"

    def _died_first(self) -> str | None:
        """The task or step that the run failed of, "" for nothing of its own; None when it did not fail of a death."""
        late = self.verdict is not None and self.verdict.get("state") == "TIMEOUT"
        return None if self.first is None or late else self.first.name

    def _exit_state(self, task: TaskHistory) -> str:
        assert task.exit is not None
        # It ends with 0 also when it was stopped before it had passed.
        done = task.start.step == "canary" and task.exit.code == 0 and self.history.ready is not None
        if done and not self.plan.canary_stays:
            return "DONE"
        if self._died_first() == task.start.name:
            return "FAILED"
        after_first = self.first is not None and (self.first.time is None or task.exited >= self.first.time)
        return "STOPPED" if after_first or not self._unasked(_death(task)) else "FAILED"

    def _rank(self, server: Server, rank: Rank, run_state: str) -> RankStatus:
        name = f"{server.name}.{rank.rank}"
        ready = self.history.rung(server.name) == RUNGS[-1]
        return RankStatus(
            name=name,
            server=server.name,
            role=server.role,
            rank=rank.rank,
            leader=rank.leader,
            node=self._node(name, rank.node),
            gpu=rank.gpu,
            pid=self._pid(name),
            state=self._task_state(name, ready, run_state),
            log=f"logs/{name}.log",
        )

    def _server(self, server: Server, ranks: tuple[RankStatus, ...]) -> ServerStatus:
        states = [rank.state for rank in ranks if rank.server == server.name]
        state, rung = min(states, key=TASK_STATES.index), self.history.rung(server.name)
        step = next((step.name for step in self.plan.steps if server.name in step.servers), "")
        version, restarts = self.history.versions.get(server.name, ""), self.history.restarts.get(step, 0)
        return ServerStatus(server.name, server.role, state, rung, version, restarts)

    def _service(self, step: Step, run_state: str) -> ServiceStatus:
        name = step.name
        rung = self.history.rung(name)
        answers = rung in RUNGS and RUNGS.index(rung) >= RUNGS.index("answering")
        ready = (
            answers
            or name in self.history.endpoints
            or ((step.kind != "service" or self.by_hand) and self.history.ready is not None)
        )
        return ServiceStatus(
            name=name,
            kind=step.kind,
            node=self._node(name, step.nodes[0] if step.nodes else 0),
            pid=self._pid(name),
            state=self._task_state(name, ready, run_state),
            rung=rung,
            log=f"logs/{name}.log",
            restarts=self.history.restarts.get(name, 0),
        )

    def _node(self, name: str, planned: int) -> str:
        task = self.history.tasks.get(name)
        return task.start.host if task else f"node {planned}"

    def _pid(self, name: str) -> int | None:
        task = self.history.tasks.get(name)
        return task.start.pid if task else None


def _death(task: TaskHistory) -> deaths.Death:
    assert task.exit is not None
    death = deaths.of_task(task.start.step, task.start.name, task.exit.code, task.exit.signal, task.exited)
    return deaths.orphaned(death) if task.orphaned else death


def failure_of(verdict: Mapping[str, Any]) -> Failure | None:
    """Why a run failed, from its verdict; None when somebody had asked for the end."""
    if verdict.get("state") in ("STOPPED", "INTERRUPTED"):
        return None
    first = verdict.get("first") or {}
    return Failure(
        reason=str(verdict.get("reason", "")),
        name=str(first.get("name") or ""),
        step=str(first.get("step") or ""),
        code=first.get("code"),
        signal=first.get("signal"),
        time=first.get("time"),
        log=str(first.get("log") or ""),
        last_lines=tuple(str(line) for line in verdict.get("last_lines") or ()),
    )
