"""A run directory as a run leaves it, written without running anything."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtdist.events import (
    EndpointUp,
    Event,
    EventWriter,
    Record,
    Rung,
    RunState,
    SupervisorStarted,
    TaskExited,
    TaskStarted,
)
from trtdist.observe.history import History
from trtdist.observe.state import Machine, RunStatus, reconcile
from trtdist.plan import Allocation, Canary, Plan, Rank, Server, Step, to_json
from trtdist.process import ProcessId
from trtdist.rundir import RunDir

__all__ = ["RUN_ID", "FakeRun", "dead_process", "make_plan", "reconciled"]

RUN_ID = "tiny-20261124-101500-3fa9"


def make_plan(launch: str = "mpi_world") -> Plan:
    """One context server of two ranks and one generation server of one rank."""
    ctx = Server("ctx.0", "context", 0, 2, 1, 1, 0.25, (Rank(0, 0, 0, 0, True), Rank(1, 1, 0, 1, False)))
    gen = Server("gen.0", "generation", 0, 1, 1, 1, 0.25, (Rank(2, 0, 0, 2, True),))
    workers = [Step(3, "workers", "workers", 1, 3, (0, 0, 0), ("ctx.0", "gen.0"))]
    if launch == "per_server":
        workers = [
            Step(3, "ctx.0", "workers", 1, 2, (0, 0), ("ctx.0",)),
            Step(4, "gen.0", "workers", 1, 1, (0,), ("gen.0",)),
        ]
    steps = [
        Step(1, "nats", "service", 2, 1, (0,)),
        Step(2, "etcd", "service", 2, 1, (0,)),
        *workers,
        Step(5, "router", "router", 0, 1, (0,)),
        Step(6, "canary", "canary", 0, 1, (0,)),
    ]
    allocation = Allocation(1, 3, 3, 1, 0)
    everything = (allocation, (ctx, gen), tuple(steps), (), Canary("prompt", 4, 0.0, 60.0))
    return Plan("tiny", "m", "reference", "trtdist", launch, "round_robin", 3, *everything)


def reconciled(plan: Plan, records: Iterable[Record], verdict: Mapping[str, Any] | None, machine: Machine) -> RunStatus:
    """The state of a run by its events, in any order."""
    history = History()
    history.extend(sorted(records, key=lambda record: record.time))
    return reconcile(plan, history, verdict, machine)


def dead_process() -> ProcessId:
    """A process that has ended."""
    child = subprocess.Popen(["sleep", "60"])
    identity = ProcessId.of(child.pid)
    child.kill()
    child.wait()
    assert identity is not None
    return identity


@dataclass(frozen=True)
class FakeRun:
    """Writes the files of one run; every process of it is this test's own unless another is given."""

    run: RunDir
    plan: Plan

    @classmethod
    def create(cls, root: Path, launch: str = "mpi_world", run_id: str = RUN_ID) -> FakeRun:
        """A run that has a plan and nothing else."""
        run = RunDir(root / run_id)
        for folder in (run.path, run.logs, run.events, run.secrets):
            folder.mkdir()
        plan = make_plan(launch)
        run.plan.write_text(to_json(plan))
        return cls(run, plan)

    def write(self, writer: str, *events: Event) -> None:
        """Append events of one writer."""
        file = EventWriter(self.run.event_file(writer))
        for event in events:
            file.write(event)
        file.close()

    def start(self, name: str, process: ProcessId | None = None) -> None:
        """A task says that it started."""
        rank = name.count(".") == 2
        server = name.rpartition(".")[0] if rank else ""
        number = int(name.rpartition(".")[2]) if rank else 0
        who = process or _myself()
        step = "workers" if rank else name
        started = TaskStarted(
            step, name, server, number, socket.gethostname(), who.pid, who.started, who.pid, who.started
        )
        self.write(f"task.{name}", started)

    def exit(self, name: str, code: int | None, signal: int | None = None) -> None:
        """A task says that it ended."""
        self.write(f"task.{name}", TaskExited("workers", name, os.getpid(), code, signal))

    def ready(self, supervisor: ProcessId | None = None) -> None:
        """Everything came up."""
        who = supervisor or _myself()
        self.write("supervisor", SupervisorStarted(socket.gethostname(), who.pid, who.started), RunState("STARTING"))
        for name in ("nats", "etcd", "ctx.0.0", "ctx.0.1", "gen.0.0", "router"):
            self.start(name)
        self.write("canary", Rung("ctx.0", "canary"), Rung("gen.0", "canary"), Rung("router", "answering"))
        self.write("supervisor", EndpointUp("nats", "n"), EndpointUp("etcd", "e"), RunState("READY"))

    def verdict(self, **fields: Any) -> Mapping[str, Any]:
        """The run ended."""
        full = {"state": "STOPPED", "exit_code": 0, "reason": "", "first": None, "last_lines": [], **fields}
        self.run.verdict.write_text(json.dumps(full))
        return full


def _myself() -> ProcessId:
    identity = ProcessId.of(os.getpid())
    assert identity is not None
    return identity
