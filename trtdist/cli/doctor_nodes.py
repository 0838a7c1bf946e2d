"""The steps with which `doctor` examines the nodes of a job, and has ranks on two of them greet each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any

from trtdist.cli.doctor_job import Job
from trtdist.cli.doctor_setup import after_setup
from trtdist.observe.node_facts import HERE, HelloFacts
from trtdist.slurm.argv import srun_beside, without_outer_task

__all__ = ["Answers", "examine", "greet", "program"]

_LOOK_S, _MEET_S, _HELLO_S, _END_S = 25.0, 20.0, 25.0, 5.0
# In the order of what they import of each other.
_SENT = (
    "trtdist.errors",
    "trtdist.containers.image_tree",
    "trtdist.containers.image_formats",
    "trtdist.services.binaries",
    "trtdist.supervisor.greeter",
    "trtdist.supervisor.nodeprobe",
    "trtdist.supervisor.examine",
)
_LOADER = """\
import json, sys, types
for name, source in json.loads(sys.argv[1]):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
module.main(json.loads(sys.argv[2]))
"""
# The Python of the run, else any that will do; without one there is nobody else to write a report.
_ANY_PYTHON = """\
if [ -x "$1" ]; then exec "$@"; fi
shift
if python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then exec python3 "$@"; fi
printf '{"node": "%s", "run_python": false}\\n' "$SLURMD_NODENAME"
"""


@dataclass(frozen=True)
class Answers:
    """The lines that nodes printed, and what srun complained about."""

    reports: tuple[Mapping[str, Any], ...]
    said: str


def examine(job: Job, asked: Mapping[str, Any], setup: Sequence[str], extra: Sequence[str]) -> Answers:
    """Have each node of the job look around, all at once, and then meet the others; at most 45 seconds.

    `asked` is what `trtdist.supervisor.examine.look` takes; `setup` has the shell lines that run first, `extra`
    further options of srun.
    """
    command = [*after_setup(setup, _ANY_PYTHON), sys.executable, *program(asked)]
    words = srun_beside(job.id, job.nodes, command, name="doctor", extra=["--input=all", *extra])
    with _Step(words) as step:
        found = step.until(lambda reports: len(reports) == len(job.nodes), _LOOK_S)
        listening = {report["node"]: report for report in found if report.get("address")}
        peers = [listening[name] for name in job.nodes if name in listening]
        files = [HERE, *(report["node"] for report in found if report.get("write_problem") == "")]
        told = {"peers": peers if job.nodes[0] in listening else [], "files": files}
        step.tell(told)
        waiting = {report["node"] for report in found if "write_problem" in report}
        found += step.until(lambda reports: waiting <= {report["node"] for report in reports}, _MEET_S)
    return Answers(tuple(found), step.said)


def program(asked: Mapping[str, Any]) -> list[str]:
    """What a Python is given so that it examines the node it runs on, all of it on the command line."""
    sources = [(name, _source(name)) for name in _SENT]
    return ["-I", "-c", _LOADER, json.dumps(sources), json.dumps(asked)]


def _source(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def greet(
    job: Job, nodes: Sequence[str], tasks: int, mpi: str, command: Sequence[str], extra: Sequence[str]
) -> HelloFacts:
    """Have ranks on some nodes of the job greet each other over MPI with `command`, within 25 seconds."""
    options = [f"--mpi={mpi}", f"--ntasks={tasks}", f"--ntasks-per-node={-(-tasks // len(nodes))}"]
    words = srun_beside(job.id, nodes, command, name="doctor-hello", extra=[*options, "--kill-on-bad-exit=1", *extra])
    began = time.monotonic()
    with _Step(words) as running:
        ranks = running.until(lambda reports: len(reports) == tasks, _HELLO_S)
        code = running.code(_END_S if ranks else 1.0)
    return HelloFacts(tasks, mpi, tuple(ranks), code, running.said, time.monotonic() - began)


class _Step:
    """An srun that reads what it is told and whose tasks print lines of JSON; it ends with the block."""

    def __init__(self, words: Sequence[str]) -> None:
        # What a run takes away from its ranks must not decide over these either.
        environ = {name: value for name, value in without_outer_task(os.environ).items() if name != "UCX_TLS"}
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            words,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            start_new_session=True,
        )
        self._lines: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self.said = ""

    def __enter__(self) -> _Step:
        self._reader.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Let it end by itself, since its input has; TERM aborts a step that does not."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        if self.code(_END_S if error[0] is None else 0.0) is None:
            self._process.terminate()
            if self.code(_END_S) is None:
                self._process.kill()
                self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._complaints.seek(0)
        self.said = self._complaints.read().strip()
        self._complaints.close()

    def tell(self, told: Mapping[str, Any]) -> None:
        """Write a line that every task reads."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()

    def until(self, enough: Callable[[Sequence[Mapping[str, Any]]], bool], seconds: float) -> list[Mapping[str, Any]]:
        """The reports that come until there are enough, or the step has ended, or time is over."""
        found: list[Mapping[str, Any]] = []
        end = time.monotonic() + seconds
        while not enough(found):
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                break
            if line is None:
                self._lines.put(None)
                break
            found += _reports([line])
        return found

    def code(self, seconds: float) -> int | None:
        """The exit code, None when it has not ended by then."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)


def _reports(lines: Iterable[str]) -> list[Mapping[str, Any]]:
    """The lines that are reports; prologs and entry points print others."""
    found: list[Mapping[str, Any]] = []
    for line in lines:
        with suppress(ValueError):
            report = json.loads(line)
            if isinstance(report, dict) and "node" in report:
                found.append(report)
    return found
