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
from queue import Empty, Queue
from typing import IO, Any

from trtdist.cli.doctor_job import Job
from trtdist.cli.doctor_sent import after_setup, sent
from trtdist.observe.node_facts import HELLO_S, HERE, LOOK_S, MEET_S, HelloFacts, latest
from trtdist.slurm.argv import srun_beside, without_outer_task

__all__ = ["EXAMINE", "Answers", "Hello", "examine", "greet"]

# How long a step may take to end by itself, and then when it is told to.
_END_S = 3.0
EXAMINE = (
    "trtdist.errors",
    "trtdist.containers.image_tree",
    "trtdist.containers.image_formats",
    "trtdist.services.binaries",
    "trtdist.supervisor.gpu_driver",
    "trtdist.supervisor.greeter",
    "trtdist.supervisor.nodeprobe",
    "trtdist.supervisor.examine",
)
"""What is sent to a node that is examined, in the order of what they import of each other."""
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


@dataclass(frozen=True)
class Hello:
    """Ranks that are to greet each other: the nodes, how many there are, the MPI type and further options of srun, what
    each runs, and variables for hooks of its container runtime."""

    nodes: tuple[str, ...]
    tasks: int
    mpi: str
    options: tuple[str, ...]
    command: tuple[str, ...]
    hooked: Mapping[str, str]


def examine(job: Job, asked: Mapping[str, Any], setup: Sequence[str], extra: Sequence[str], began: float) -> Answers:
    """Have each node of the job look around, all at once, and then meet the others; until MEET_S after `began`.

    `asked` is what `trtdist.supervisor.examine.look` takes; `setup` has the shell lines that run first, `extra`
    further options of srun.
    """
    command = [*after_setup(setup, _ANY_PYTHON), sys.executable, "-I", *sent(EXAMINE, asked)]
    words = srun_beside(job.id, job.nodes, command, name="doctor", extra=["--input=all", *extra])
    with _Step(words) as step:
        looking = step.until(lambda reports: len(_ended(reports)) == len(job.nodes), began + LOOK_S)
        found = _ended(looking)
        listening = {report["node"]: report for report in found if report.get("address")}
        peers = [listening[name] for name in job.nodes if name in listening]
        files = [HERE, *(report["node"] for report in found if report.get("write_problem") == "")]
        told = {"peers": peers if job.nodes[0] in listening else [], "files": files}
        step.tell(told)
        waiting = {report["node"] for report in found if "write_problem" in report}
        meeting = step.until(lambda reports: waiting <= {each["node"] for each in _ended(reports)}, began + MEET_S)
    return Answers((*looking, *meeting), step.said)


def _ended(reports: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that say what was found, and not only what was begun."""
    return [report for report in reports if "at" not in report]


def greet(job: Job, hello: Hello, began: float) -> HelloFacts:
    """Have ranks on some nodes of the job greet each other over MPI, until HELLO_S after `began`."""
    shape = [f"--ntasks={hello.tasks}", f"--ntasks-per-node={-(-hello.tasks // len(hello.nodes))}"]
    extra = [f"--mpi={hello.mpi}", *shape, "--kill-on-bad-exit=1", *hello.options]
    words = srun_beside(job.id, hello.nodes, hello.command, name="doctor-hello", extra=extra)
    started = time.monotonic()
    with _Step(words, hello.hooked) as running:
        said = running.until(lambda reports: len(_ended(reports)) == hello.tasks, began + HELLO_S)
        ranks = _ended(said)
        code, took = running.code(0.0 if running.late else _END_S), time.monotonic() - started
    return HelloFacts(
        nodes=hello.nodes,
        tasks=hello.tasks,
        mpi=hello.mpi,
        ranks=tuple(ranks),
        at=latest(said),
        code=code,
        said=running.said,
        seconds=took,
        server_pmix=next((report["server_pmix"] for report in said if report.get("server_pmix")), ""),
        pmix=next((report["pmix"] for report in said if report.get("pmix")), ""),
    )


class _Step:
    """An srun that reads what it is told and whose tasks print lines of JSON; it ends with the block. `late` says
    whether time was over before what was waited for came."""

    def __init__(self, words: Sequence[str], more: Mapping[str, str] | None = None) -> None:
        # What a run takes away from its ranks must not decide over these either.
        environ = {name: value for name, value in without_outer_task(os.environ).items() if name != "UCX_TLS"}
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            words,
            env={**environ, **(more or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            start_new_session=True,
        )
        self._lines: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self.late = False
        self.said = ""

    def __enter__(self) -> _Step:
        self._reader.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Let it end by itself, since its input has, if it was in time; TERM aborts a step that does not."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        if self.code(0.0 if self.late or error[0] is not None else _END_S) is None:
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

    def until(self, enough: Callable[[Sequence[Mapping[str, Any]]], bool], end: float) -> list[Mapping[str, Any]]:
        """The reports that come until there are enough, or the step has ended, or it is `end` by the monotonic
        clock."""
        found: list[Mapping[str, Any]] = []
        while not enough(found):
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                self.late = True
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
