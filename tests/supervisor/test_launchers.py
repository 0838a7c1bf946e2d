"""What the supervisor counts on, of every launcher: one suite for the local one and the one that goes through Slurm."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import PYTHON, Cluster
from tests.supervisor.runs import DEAF, ROOT, SLEEP, HandMade, wait_for
from tests.supervisor.slurm_runs import SlurmMade
from trtdist.events import TaskStarted
from trtdist.process import ProcessId

DRIVER = "tests.supervisor.launcher_driver"


class Launching:
    """A launcher in a program of its own, at work on a hand-made run."""

    def __init__(self, made: HandMade, argv: list[str]) -> None:
        self.made = made
        self.heard: list[list[Any]] = []
        self.lines: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.pid = self.hear("up")[1]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)

    def tell(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def hear(self, *words: object, seconds: float = 120.0) -> list[Any]:
        """The first line that begins with these words and was not heard before."""
        end = time.monotonic() + seconds
        while True:
            for line in self.heard:
                if line[: len(words)] == list(words):
                    self.heard.remove(line)
                    return line
            try:
                self.heard.append(json.loads(self.lines.get(timeout=max(0.0, end - time.monotonic()))))
            except queue.Empty:
                raise AssertionError(f"not heard: {words}; instead {self.heard}") from None

    def up(self, step: str) -> None:
        """Start a step and wait for all of its tasks."""
        self.tell("start", step)
        for task in self.made.tasks(step):
            self.hear("adopted", step, task)

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.reader.join()
        self.process.stdout.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Launching]:
    made = HandMade(tmp_path)
    launching = Launching(made, [sys.executable, "-m", DRIVER, str(made.run.path), "local"])
    yield launching
    launching.close()
    made.clean()


@pytest.fixture
def slurm(cluster: Cluster) -> Iterator[Launching]:
    made = SlurmMade(cluster.folder / "run", cluster=cluster)
    name = f"--name={cluster.folder.name}"
    job = ["salloc", "--quiet", f"--job-{name[2:]}", "--nodes=2", "--ntasks-per-node=4", "--mem=200"]
    # A job that outlives a launcher that was killed, so that it is not the job's end which ends the steps.
    command = [*job, "bash", "-c", '"$@" || sleep 20', "-", "env", "-C", str(ROOT), f"PYTHONPATH={ROOT}"]
    command += [PYTHON, "-m", DRIVER, str(made.run.path), "slurm"]
    launching = Launching(made, cluster.argv(*command))
    yield launching
    cluster.run("scancel", name)
    launching.close()
    made.clean()


@pytest.fixture(params=["local", "slurm"])
def launching(request: pytest.FixtureRequest) -> Launching:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Launching)
    return found


def test_an_end_is_told_once_and_the_step_may_start_again(launching: Launching) -> None:
    launching.made.program("router", "exit 3")
    for _ in range(2):
        launching.up("router")
        assert launching.hear("ended", "router") == ["ended", "router", 3, None]
    launching.tell("recorded")
    launching.hear("recorded")
    assert not [line for line in launching.heard if line[0] == "ended"]


def test_steps_run_side_by_side(launching: Launching) -> None:
    launching.up("nats")
    launching.up("workers")
    launching.made.program("router", "exit 0")
    launching.up("router")
    launching.hear("ended", "router", 0)
    for step in ("workers", "nats"):
        launching.tell("kill", step)
        launching.hear("ended", step)


def test_a_signal_reaches_every_task(launching: Launching) -> None:
    made = launching.made
    made.program("workers", "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    launching.up("workers")
    logs = [made.run.log(task) for task in made.tasks("workers")]
    wait_for(lambda: all(log.exists() and "up" in log.read_text() for log in logs), 60, "the traps")
    launching.tell("signal", "workers", int(signal.SIGTERM))
    launching.hear("ended", "workers")
    assert all(log.read_text().endswith("told\n") for log in logs)


def test_a_signal_before_any_task_is_there_ends_the_step(launching: Launching) -> None:
    launching.tell("start", "router")
    launching.hear("started", "router")
    launching.tell("signal", "router", int(signal.SIGTERM))
    launching.hear("ended", "router")
    wait_for(lambda: not alive(launching.made), 60, "the end of all tasks")


def test_kill_leaves_nothing(launching: Launching) -> None:
    launching.made.program("workers", DEAF)
    launching.up("workers")
    launching.tell("kill", "workers")
    launching.hear("ended", "workers")
    wait_for(lambda: not alive(launching.made), 60, "the end of all tasks")


def test_kill_takes_what_a_program_has_started(local: Launching) -> None:
    """So that it is in nobody's way when the step starts again."""
    pids = local.made.run.path / "pids"
    started = f"sleep 600 & echo $! >{pids}.new; mv {pids}.new {pids}; wait"
    # The shim gives each program a process group of its own.
    local.made.program("router", f"exec setsid bash -c '{started}'")
    local.up("router")
    wait_for(pids.exists, 30, "the program's own")
    child = ProcessId.of(int(pids.read_text()))
    local.tell("kill", "router")
    local.hear("ended", "router")
    assert child is not None
    wait_for(lambda: not child.alive(), 30, "its end")


def test_everything_ends_with_the_launcher(launching: Launching) -> None:
    launching.made.program("workers", SLEEP)
    launching.up("workers")
    launching.up("nats")
    if isinstance(launching.made, SlurmMade):
        launching.made.on_node("submit", f"kill -9 {launching.pid}")
    else:
        os.kill(launching.pid, signal.SIGKILL)
    wait_for(lambda: not alive(launching.made), 60, "the end of all tasks")


def test_a_missing_file_is_refused(launching: Launching) -> None:
    (script,) = launching.made.run.scripts.glob("*-router.*.sh")
    script.unlink()
    launching.tell("start", "router")
    assert launching.hear("refused", "router")[2] == f"scripts/{script.name} is missing"


def alive(made: HandMade) -> object:
    """The tasks that still run, wherever they are."""
    if isinstance(made, SlurmMade):
        return {node: text for node, text in made.left().items() if "/proc" in text}
    tasks = {(event.pid, event.started) for event in made.events(TaskStarted)}
    return [process for process in made.identities() if (process.pid, process.started) in tasks and process.alive()]
