"""The launch lines of a run: starts the rendered files, and learns of the ends of their first processes.

What both launchers have in common. Standard library, Python 3.9.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Union

from trtdist.events import TaskStarted
from trtdist.plan import Step
from trtdist.process import ProcessId
from trtdist.rundir import RunDir
from trtdist.supervisor import lineage
from trtdist.supervisor.launcher import Ended, LaunchError
from trtdist.supervisor.watch import Watch

__all__ = ["LaunchLines", "Watched"]

# The name of a step, whose first process is watched, or a task, whose shim is.
Watched = Union[str, TaskStarted]


_PRINTED_BYTES = 1 << 16


class LaunchLines:
    """Runs `scripts/NN-name.SUFFIX` with bash; `last_word` is the signal that each gets when this process dies."""

    def __init__(self, run: RunDir, suffix: str, last_word: int, watch: Watch[Watched]) -> None:
        self._run = run
        self._suffix = suffix
        self._bound = lineage.Bound(os.getpid(), last_word)
        self._watch = watch
        self._processes: dict[str, tuple[subprocess.Popen[bytes], ProcessId]] = {}

    def start(self, step: Step, life: str) -> ProcessId:
        """Start a step in a session of its own; returns its first process. LaunchError when that is impossible."""
        script = self._run.scripts / f"{step.stem}.{self._suffix}"
        if not script.is_file():
            raise LaunchError(f"scripts/{script.name} is missing")
        try:
            process = self._spawn(script, self._run.log(f"launch.{step.name}"), life)
        except (OSError, subprocess.SubprocessError) as error:
            raise LaunchError(f"scripts/{script.name}: {error}") from error
        # A child that was not reaped yet has a start time even when it has already ended.
        identity = ProcessId(process.pid, lineage.child_start_ticks(process.pid))
        self._processes[step.name] = process, identity
        self._watch.add(step.name, identity)
        return identity

    def _spawn(self, script: Path, log: Path, life: str) -> subprocess.Popen[bytes]:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                ["bash", str(script)],
                env={**os.environ, "TRTDIST_LIFE": life},
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                preexec_fn=self._bound,
            )
        finally:
            os.close(descriptor)

    def reap(self, step: str, last_seen: float) -> Ended:
        """The end of a step whose first process the watch has seen to be gone, last alive at `last_seen`."""
        process, _ = self._processes.pop(step)
        code = process.wait()
        if code < 0:
            return Ended(step, None, -code, last_seen)
        return Ended(step, code, None, time.time())

    def printed(self, step: str) -> str:
        """The end of what the launch lines of a step have printed, "" for nothing."""
        try:
            with open(self._run.log(f"launch.{step}"), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _PRINTED_BYTES))
                return file.read(_PRINTED_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""

    def runs(self, step: str) -> bool:
        """Whether a step was started and its end was not reported yet."""
        return step in self._processes

    def signal(self, step: str, number: int) -> None:
        """To the first process of a step."""
        if step in self._processes:
            self._processes[step][1].signal(number)

    def kill_group(self, step: str) -> None:
        """Kill the process group of a step."""
        if step in self._processes:
            lineage.kill_group(self._processes[step][0].pid)

    def close(self) -> None:
        """Reap what has ended, and leave the rest."""
        for process, _ in self._processes.values():
            process.poll()
            process.returncode = process.returncode if process.returncode is not None else 0
