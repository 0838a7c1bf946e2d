"""Reads a run directory into the state of a run: the part of observing that touches disk and processes."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trtdist import chain
from trtdist.errors import InputError
from trtdist.events import EventReader, Successor, SupervisorStarted
from trtdist.observe.history import History
from trtdist.observe.jobs import JobWatcher
from trtdist.observe.state import FINAL_STATES, Failure, JobLook, Machine, RunStatus, reconcile
from trtdist.plan import Plan, from_json
from trtdist.process import ProcessId
from trtdist.rundir import RunDir
from trtdist.services.envfile import read_env_or_nothing
from trtdist.slurm import states
from trtdist.supervisor import verdict

__all__ = ["JSON_VERSION", "Endpoints", "RunReader", "Snapshot", "job_of", "to_json"]

JSON_VERSION = 1

_LAST_LINES = 10
_LINE_WIDTH = 500


@dataclass(frozen=True)
class Endpoints:
    """Where a run is reached; None for what is not known yet or not there. Credentials are named by their files.

    `http_node` is the head node when it alone reaches the HTTP front end, None when others do as well.
    """

    namespace: str
    component: str
    endpoint: str
    nats_url: str | None
    nats_user_file: str | None
    nats_password_file: str | None
    etcd_url: str | None
    http_url: str | None = None
    http_keys_file: str | None = None
    http_node: str | None = None

    @property
    def http_elsewhere(self) -> bool:
        """Whether the HTTP front end is reached on another machine alone."""
        return self.http_node not in (None, socket.gethostname(), os.environ.get("SLURMD_NODENAME"))

    @property
    def instance_prefix(self) -> str:
        """The start of the etcd keys under which the instances of the front door are registered."""
        return f"{self.namespace}/components/{self.component}/{self.endpoint}:"


@dataclass(frozen=True)
class Snapshot:
    """One look at a run; `successor` is the last word on the run that is to take over, `next_due` when one is asked for
    (epoch), `before` the id of the run from which this one is to take over, or has."""

    run: RunDir
    plan: Plan
    status: RunStatus
    endpoints: Endpoints

    job_id: str | None = None
    successor: Successor | None = None
    before: str | None = None
    next_due: float | None = None

    @property
    def final(self) -> bool:
        """Whether the run has ended; one that has failed and is being taken down has not."""
        return self.status.state in FINAL_STATES and self.status.ended is not None


class RunReader:
    """Looks at one run again and again, reading only what its event files grew by.

    Liveness is probed between two reads of the events, so that a process that told its end before it died is never
    shown as lost. Readers of many runs share one watcher of jobs.
    """

    def __init__(self, run: RunDir, jobs: JobWatcher | None = None) -> None:
        self.run = run
        self._jobs = jobs or JobWatcher()
        self.plan = _read_plan(run)
        self._events = EventReader(run.events, skip=_is_canary_passed)
        self._history = History()

    def look(self) -> Snapshot:
        """The run as it is now."""
        self._history.extend(self._events.poll())
        alive, job = self._probe(), self._job()
        self._history.extend(self._events.poll())
        machine = Machine(
            alive=lambda host, process: alive.get((host, process), True),
            now=time.time(),
            created=_modified(self.run.plan),
            booted=_boot_time(),
            job=job,
            lost=self._lost_head(job),
        )
        status = reconcile(self.plan, self._history, verdict.read(self.run), machine)
        ends = _endpoints(self.run, self.plan)
        before = chain.predecessor(self.run)
        return Snapshot(
            self.run,
            self.plan,
            self._with_lines(status),
            ends,
            self._job_id() or None,
            self._history.successor,
            None if before is None else before.run_id,
            self._history.next_due,
        )

    def _probe(self) -> dict[tuple[str, ProcessId], bool | None]:
        here = socket.gethostname()
        found = [(task.start.host, ProcessId(task.start.pid, task.start.started)) for task in self._tasks()]
        found += [(task.start.host, ProcessId(task.start.shim_pid, task.start.shim_started)) for task in self._tasks()]
        supervisor: SupervisorStarted | None = self._history.supervisor
        if supervisor is not None:
            found.append((supervisor.host, ProcessId(supervisor.pid, supervisor.started)))
        return {(host, process): process.alive() if host == here else None for host, process in found}

    def _job(self) -> JobLook | None:
        """What Slurm says of the run's job; not asked of a run that has ended."""
        job = self._job_id()
        return self._jobs.look(job) if job and not self.run.verdict.exists() else None

    def _lost_head(self, job: JobLook | None) -> str:
        """The head node when it is down and Slurm keeps the job all the same, as it does for a run with spare nodes."""
        used = 1 + max(node for step in self.plan.steps for node in step.nodes)
        if job is None or job.phase != states.LIVE or self.plan.allocation.nodes <= used:
            return ""
        head = next(iter(read_env_or_nothing(self.run.resolved_env).get("TRTDIST_NODES", "").split()), "")
        return head if head and self._jobs.down(head) else ""

    def _job_id(self) -> str:
        """As the supervisor told it, else as it was submitted; "" without one."""
        supervisor = self._history.supervisor
        return (supervisor.slurm_job if supervisor else "") or job_of(self.run)

    def _tasks(self) -> list[Any]:
        return list(self._history.tasks.values())

    def _with_lines(self, status: RunStatus) -> RunStatus:
        failure = status.failure
        if failure is None or failure.last_lines or not failure.log:
            return status
        lines = [line[:_LINE_WIDTH] for line in verdict.tail(self.run.path / failure.log, _LAST_LINES)]
        return replace(status, failure=replace(failure, last_lines=tuple(lines)))


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as the object that `trtdist status --json` prints; keys are only ever added."""
    status, plan, run = snapshot.status, snapshot.plan, snapshot.run
    return {
        "version": JSON_VERSION,
        "run_id": run.run_id,
        "run_dir": str(run.path),
        "name": plan.name,
        "state": status.state,
        "detail": status.detail,
        "engine": plan.engine,
        "model": plan.model,
        "runtime": plan.runtime,
        "launch": plan.launch,
        "slurm_job_id": snapshot.job_id,
        "slurm_job": None if status.job is None else asdict(status.job),
        "supervisor": {"pid": status.supervisor_pid, "alive": status.supervisor_alive},
        "times": {"begun": status.begun, "ready": status.ready, "ended": status.ended},
        "endpoints": _endpoints_json(snapshot.endpoints),
        "servers": [asdict(server) for server in status.servers],
        "ranks": [{**asdict(rank), "log": str(run.path / rank.log)} for rank in status.ranks],
        "services": [{**asdict(service), "log": str(run.path / service.log)} for service in status.services],
        "previous_run": snapshot.before,
        "next_due": snapshot.next_due,
        "next_run": None if snapshot.successor is None else asdict(snapshot.successor),
        "failure": None if status.failure is None else _failure_json(run, status.failure),
    }


def _endpoints_json(ends: Endpoints) -> dict[str, Any]:
    return {
        "front_door": {
            "namespace": ends.namespace,
            "component": ends.component,
            "endpoint": ends.endpoint,
            "instance_prefix": ends.instance_prefix,
            "url": ends.http_url,
            "keys_file": ends.http_keys_file,
            "http_node": ends.http_node,
        },
        "nats": {
            "url": ends.nats_url,
            "user_file": ends.nats_user_file,
            "password_file": ends.nats_password_file,
        },
        "etcd": {"url": ends.etcd_url},
    }


def _failure_json(run: RunDir, failure: Failure) -> dict[str, Any]:
    first = None
    if failure.name:
        first = {
            "name": failure.name,
            "step": failure.step,
            "code": failure.code,
            "signal": failure.signal,
            "time": failure.time,
            "log": str(run.path / failure.log) if failure.log else None,
        }
    return {"reason": failure.reason, "first": first, "last_lines": list(failure.last_lines)}


def _endpoints(run: RunDir, plan: Plan) -> Endpoints:
    env = read_env_or_nothing(run.resolved_env)
    router = any(step.kind == "router" for step in plan.steps)
    return Endpoints(
        namespace=run.run_id,
        component="router" if router else "tensorrt-llm",
        endpoint="generate",
        nats_url=env.get("NATS_SERVER") or None,
        nats_user_file=_if_there(run.secrets / "nats.user"),
        nats_password_file=_if_there(run.secrets / "nats.password"),
        etcd_url=env.get("ETCD_ENDPOINTS") or None,
        http_url=env.get("TRTDIST_HTTP_URL") or None,
        http_keys_file=_if_there(run.secrets / "http.keys"),
        http_node=_only_node(env.get("TRTDIST_HTTP_URL"), env.get("TRTDIST_NODES", "")),
    )


def _only_node(url: str | None, nodes: str) -> str | None:
    """The head node when it alone reaches the address."""
    host = urlsplit(url or "").hostname
    alone = host is not None and ipaddress.ip_address(host).is_loopback
    return next(iter(nodes.split()), None) if alone else None


def _if_there(path: Path) -> str | None:
    return str(path) if os.path.exists(path) else None


def _read_plan(run: RunDir) -> Plan:
    try:
        return from_json(run.plan.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"run {run.run_id} has no plan.json: it is still being written, or was not started") from error
    except OSError as error:
        raise InputError(f"cannot read {run.plan}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run.plan} was not written by this version of trtdist: {error}") from error


def job_of(run: RunDir) -> str:
    """The id of the job of a run, its own or one that it borrowed; "" without one."""
    for path in (run.slurm_job, run.borrowed_job):
        with suppress(OSError):
            return path.read_text(encoding="utf-8").strip()
    return ""


def _is_canary_passed(line: bytes) -> bool:
    """Nothing in the state depends on these, and a run that repeats its canaries writes them for weeks."""
    return b'"type": "canary_passed"' in line[:160]


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _boot_time() -> float:
    try:
        return time.time() - float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
