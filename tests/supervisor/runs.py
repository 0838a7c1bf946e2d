"""Run directories made by hand, with tiny programs as steps."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.supervisor.simulation import make_plan
from trtdist.events import Event, EventReader, EventWriter, SupervisorStarted
from trtdist.plan import Plan, to_json
from trtdist.process import ProcessId
from trtdist.rundir import RunDir

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SLEEP = "exec sleep 1000"
DEAF = "trap '' TERM INT; echo deaf; while :; do sleep 0.2; done"


def wait_for(holds: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of a condition; an error when there is none in time."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)
    return value


@dataclass
class HandMade:
    """A run directory whose steps are bash one-liners; `supervise` starts a real supervisor on it."""

    folder: Path
    plan: Plan = field(default_factory=make_plan)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.run = RunDir(self.folder / "sim-20260101-000000-abcd")
        for path in (self.run.scripts, self.run.logs, self.run.events, self.run.control, self.run.secrets):
            path.mkdir(parents=True)
        self.local = self.local_folder()
        self.run.plan.write_text(to_json(self.plan))
        self.run.resolved_env.write_text(f"TRTDIST_LOCAL_DIR={shlex.quote(str(self.local))}\n")
        for step in self.plan.steps:
            self.program(step.name, SLEEP)
        for name in ("nats", "etcd"):
            self.healthy(name)

    def local_folder(self) -> Path:
        """The run's folder on the disk of its node, with something in it."""
        folder = self.folder / "trtdist-0" / self.run.local.name
        folder.mkdir(parents=True)
        (folder / "data").write_text("x")
        return folder

    def tasks(self, step: str) -> list[str]:
        """The names of a step's tasks."""
        servers = self.plan.step(step).servers
        return [f"{name}.{rank.rank}" for name in servers for rank in self.plan.server(name).ranks] or [step]

    def program(self, step: str, *lines: str) -> None:
        """What each task of a step runs: one line for all tasks, or a line for each."""
        names = self.tasks(step)
        each = lines if len(lines) == len(names) else lines * len(names)
        commands = [self._shim(step, name, line) for name, line in zip(names, each)]
        if self.plan.step(step).kind != "workers":
            self.script(step, f"exec {commands[0]}")
            return
        # As mpiexec: one that ends badly takes the others along.
        launcher = "\n".join(f"{command} &" for command in commands)
        self.script(step, f"{launcher}\nwait -n\ncode=$?\nkill $(jobs -p) 2>/dev/null\nwait\nexit $code")

    def script(self, step: str, text: str) -> None:
        """The launch line of a step, as it is."""
        (self.run.scripts / f"{self.plan.step(step).stem}.local.sh").write_text(text + "\n")

    def _shim(self, step: str, name: str, line: str) -> str:
        argv = [sys.executable, str(HERE / "fake_shim.py"), str(self.run.path), step, name, "--", "bash", "-c", line]
        return shlex.join(argv)

    def healthy(self, name: str) -> None:
        """Have a service be healthy."""
        (self.run.path / "health").mkdir(exist_ok=True)
        (self.run.path / "health" / name).touch()

    def supervise(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a real supervisor, in a session of its own."""
        with open(self.run.log("supervisor"), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.supervisor.fake_supervisor", str(self.run.path), *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def say(self, writer: str, event: Event) -> None:
        """Write an event as another program."""
        file = EventWriter(self.run.event_file(writer))
        file.write(event)
        file.close()

    def events(self, kind: type) -> list[Any]:
        """All events of a kind so far."""
        return [record.event for record in EventReader(self.run.events).poll() if isinstance(record.event, kind)]

    def states(self) -> list[str]:
        """The states that the run went through."""
        from trtdist.events import RunState

        return [event.state for event in self.events(RunState)]

    def up(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Supervise until every task is there, and say that the run is ready."""
        from trtdist.events import Ready, TaskStarted

        supervisor = self.supervise(*arguments)
        count = sum(step.tasks for step in self.plan.steps)
        wait_for(lambda: len(self.events(TaskStarted)) == count, 60, "all tasks")
        self.say("canary", Ready(1))
        wait_for(lambda: "READY" in self.states(), 60, "READY")
        return supervisor

    def task(self, name: str) -> Any:
        """The announcement of a task."""
        from trtdist.events import TaskStarted

        return next(event for event in self.events(TaskStarted) if event.name == name)

    def identities(self) -> list[ProcessId]:
        """Every process that the events name."""
        from trtdist.events import StepStarted, TaskStarted

        found = [ProcessId(e.pid, e.started) for e in self.events(StepStarted) + self.events(SupervisorStarted)]
        for event in self.events(TaskStarted):
            found += [ProcessId(event.pid, event.started), ProcessId(event.shim_pid, event.shim_started)]
        return found

    def verdict(self, seconds: float = 60.0) -> dict[str, Any]:
        """The verdict, as soon as there is one."""
        text = wait_for(lambda: self.run.verdict.exists() and self.run.verdict.read_text(), seconds, "a verdict")
        found: dict[str, Any] = json.loads(text)
        return found

    def nothing_left(self) -> None:
        """Fail if a process or the local folder is still there."""
        assert [process for process in self.identities() if process.alive()] == []
        assert not self.local.exists()

    def clean(self) -> None:
        """End what a failed test left."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for identity in self.identities():
            identity.signal(9)
