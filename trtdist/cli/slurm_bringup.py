"""How `up` brings a run up through Slurm: in the allocation that is there, or in one that salloc gets for it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from trtdist.cli.aftermath import bury
from trtdist.cli.bringup import Supervised
from trtdist.cli.jobs import rejected
from trtdist.cli.latest import remove
from trtdist.cli.prepare import prepare_slurm
from trtdist.cli.progress import say
from trtdist.errors import TrtdistError
from trtdist.plan import Plan
from trtdist.rundir import RunDir, write_atomic
from trtdist.slurm import argv
from trtdist.slurm.argv import JobOptions
from trtdist.supervisor import control, deaths, lineage
from trtdist.supervisor.facts import Death, Outcome
from trtdist.supervisor.remains import supervisor_of
from trtdist.topology.model import Topology

__all__ = ["SlurmBringUp"]

# What salloc says of the job, both while it waits and when it has it.
_ALLOCATION = re.compile(rb"job allocation (\d+)")
_KILL_AFTER = 3.0


@dataclass(frozen=True)
class SlurmBringUp:
    """A run through Slurm, its supervisor a step on the head node.

    `borrowed` is the job that it runs in, with its nodes, None for one of its own: then salloc gets one, and gives it
    back when the supervisor ends. With `bound`, the run goes down when this process dies.
    """

    topology: Topology
    plan: Plan
    job: JobOptions
    borrowed: tuple[str, str] | None
    bound: bool

    def prepare(self) -> RunDir:
        """Make the run directory below the runs folder."""
        run = prepare_slurm(self.topology, self.plan, environ=os.environ, now=time.time())
        if self.borrowed is not None:
            write_atomic(run.borrowed_job, self.borrowed[0] + "\n")
        return run

    def supervise(self, run: RunDir) -> Supervised:
        """Start the supervisor's step, or salloc with it as its command; what they print goes to logs/launch.up.log."""
        step = ("bash", str(run.scripts / "head.srun.sh"), "supervisor.sh")
        environ = dict(os.environ)
        if self.borrowed is not None:
            environ["SLURM_JOB_ID"], environ["SLURM_JOB_NODELIST"] = self.borrowed
        words = list(step) if self.borrowed is not None else argv.salloc(self.job, step)
        log = run.log("launch.up")
        try:
            process = _spawn(words, log, run.path, environ, self.bound)
        except OSError as error:
            raise TrtdistError(f"cannot start {words[0]} for {run.run_id}: {error}") from error
        return _Remote(run, process, log, self.job, self.borrowed is None)


class _Remote:
    """A supervisor on another machine, through the process that holds its step or its allocation."""

    def __init__(
        self, run: RunDir, process: subprocess.Popen[bytes], log: Path, job: JobOptions, allocating: bool
    ) -> None:
        self._run = run
        self._process = process
        self._log = log
        self._job = job
        self._allocating = allocating
        self._interrupted = False
        self._began = False

    def interrupt(self, number: int) -> None:
        """Leave a request for the supervisor; a job that waits is given up."""
        self._interrupted = True
        control.ask(self._run, control.INTERRUPT)
        if not self._has_begun():
            self._process.terminate()

    def kill(self) -> None:
        """TERM to srun aborts the step, to salloc ends the job."""
        self._process.terminate()
        try:
            self._process.wait(_KILL_AFTER)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def ended(self) -> Death | None:
        """How it ended; InputError with Slurm's words when it never began."""
        if self._allocating:
            self._learn_job()
        code = self._process.poll()
        if code is None:
            return None
        if not self._has_begun() and not self._run.verdict.exists():
            self._never_began()
        return deaths.of_supervisor(code if code >= 0 else None, -code if code < 0 else None, time.time())

    def _has_begun(self) -> bool:
        self._began = self._began or supervisor_of(self._run) is not None
        return self._began

    def _learn_job(self) -> None:
        """Note the job's id as soon as salloc tells it, so that others can look at it and end it."""
        found = _ALLOCATION.search(self._said())
        if found is not None:
            self._allocating = False
            number = found[1].decode()
            write_atomic(self._run.slurm_job, number + "\n")
            say(f"job {number}; its output, if any, is in {self._log}")

    def _never_began(self) -> None:
        if self._interrupted:
            bury(self._run, Outcome("INTERRUPTED", 130, "interrupted before the supervisor had started"))
            return
        words = " ".join(self._said().decode("utf-8", "replace").split()) or "without a word"
        refused = _ALLOCATION.search(self._said()) is None and self._process.args[0] == "salloc"  # type: ignore[index]
        if refused:
            remove(self._run, os.environ)
            raise rejected(words, self._job)
        error = TrtdistError(f"the supervisor did not start: {words}")
        bury(self._run, Outcome("FAILED", error.exit_code, str(error)))
        raise error

    def _said(self) -> bytes:
        try:
            return self._log.read_bytes()
        except OSError:
            return b""


@dataclass(frozen=True)
class _Start:
    """To be called in a child between fork and exec: it takes signals, and is bound to its parent if that is wanted."""

    parent: int | None

    def __call__(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if self.parent is not None:
            lineage.Bound(self.parent, signal.SIGTERM)()


def _spawn(words: list[str], log: Path, folder: Path, environ: dict[str, str], bound: bool) -> subprocess.Popen[bytes]:
    with open(log, "ab") as output:
        return subprocess.Popen(
            words,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_Start(os.getpid() if bound else None),
        )
