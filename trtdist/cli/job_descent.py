"""How `down` takes a run through Slurm down: asks its supervisor on the head node, then has Slurm end it."""

from __future__ import annotations

import time
from collections.abc import Callable

from trtdist.cli.aftermath import AFTER_GRACE, after_death, bury
from trtdist.cli.progress import Lines, say
from trtdist.cli.submitted import LATE, ended_with
from trtdist.errors import InputError, MissingError, SlurmDownError, SlurmError, SlurmGoneError, TrtdistError
from trtdist.events import ControlTaken, EventReader, Record, TaskStarted
from trtdist.observe.jobs import JobWatcher
from trtdist.observe.state import JobLook
from trtdist.rundir import RunDir
from trtdist.services.envfile import read_env_or_nothing
from trtdist.slurm import argv, hostlist, parse, runner, states
from trtdist.supervisor import control
from trtdist.supervisor.facts import Outcome
from trtdist.supervisor.remains import supervisor_of

__all__ = ["JobDescent"]

_PACE, _LOOK_EVERY = 0.1, 1.0
_PATIENCE = 30.0
# The request and its answer go through the file system that all nodes share.
_TO_REACT = 15.0
# After scancel: KillWait of most sites is 30 s, some have more.
_TO_END = 120.0
_TO_LEAVE = 15.0


class JobDescent:
    """Takes one run down whose job is `job`; `grace` in seconds. The job itself ends too, unless it is borrowed."""

    def __init__(self, run: RunDir, job: str, asked_for: float | None, grace: float) -> None:
        self._run = run
        self._job = job
        self._asked_for = asked_for
        self._grace = grace
        self._borrowed = not run.slurm_job.exists()
        self._events = EventReader(run.events)
        self._steps: set[str] = set()
        self._taken: set[str] = set()
        self._display = Lines(time.time())
        self._next_look = 0.0
        self._called_off = self._buried = False
        self._seen = states.LIVE
        self._hear()

    def go(self) -> str:
        """Return when there is a verdict and the job, or what it ran for this run, is over: with what is known of files
        that the run kept on its nodes, in words."""
        told = "nothing is left"
        if not self._run.verdict.exists():
            self._end_run()
            told = self._kept() if self._buried else told
        if not self._borrowed:
            self._end_job()
        return told

    def _kept(self) -> str:
        """Where files may be that only its supervisor, of which there is none any more, could have removed."""
        env = read_env_or_nothing(self._run.resolved_env)
        nodes = env.get("TRTDIST_NODES", "").split()
        if not nodes:
            return "nothing is left"
        return f"nothing runs; its files on {hostlist.fold(nodes)} may be left: {env.get('TRTDIST_LOCAL_DIR')}"

    def _end_run(self) -> None:
        if self._phase() == states.WAITING and self._take_from_queue():
            self._bury(Outcome("STOPPED", 0, f"taken down while job {self._job} waited"))
            return
        if self._borrowed and self._steps and supervisor_of(self._run) is None:
            self._end_steps()
            return
        request = self._ask()
        if request and self._wait(lambda: request in self._taken or self._over(), _TO_REACT):
            self._wait(self._over, self._grace + AFTER_GRACE)
        if self._died():
            return
        if not self._run.verdict.exists():
            say(f"the supervisor of {self._run.run_id} does not react; Slurm ends {self._what()}")
            self._cancel()
            self._wait(self._over, _TO_END)
        if not self._run.verdict.exists():
            self._bury(Outcome("STOPPED", 0, f"stopped by `trtdist down`: Slurm ended {self._what()}"))

    def _died(self) -> bool:
        """Whether its job ended without a verdict and though nobody asked Slurm for that: then the run failed."""
        if self._called_off or self._run.verdict.exists() or self._phase() != states.ENDED:
            return False
        if not self._wait(self._run.verdict.exists, LATE):
            job = JobWatcher().look(self._job) or JobLook(self._job, states.ENDED, f"job {self._job} is over")
            self._bury(after_death(self._run, ended_with(self._run, job)))
        return True

    def _bury(self, outcome: Outcome) -> None:
        bury(self._run, outcome)
        self._buried = True

    def _take_from_queue(self) -> bool:
        """Whether the job never started; one that did so at this moment goes on, and its supervisor can be asked."""
        self._call_off(argv.scancel_waiting(self._job))
        self._next_look = 0.0
        if self._phase() == states.LIVE:
            return False
        self._cancel()  # one that waits for its nodes to boot is no longer in the queue
        return True

    def _end_steps(self) -> None:
        """A run whose steps a person started has no supervisor to ask."""
        self._cancel()
        if not self._wait(self._steps_over, _TO_END):
            raise TrtdistError(f"steps of {self._run.run_id} are still there: scancel {' '.join(sorted(self._steps))}")
        self._bury(Outcome("STOPPED", 0, f"stopped by `trtdist down`: Slurm ended {self._what()}"))

    def _end_job(self) -> None:
        """A supervisor that has ended takes its job with it; one that hangs after its verdict is not waited for."""
        if self._wait(self._job_over, _TO_LEAVE):
            return
        self._cancel()
        if not self._wait(self._job_over, _TO_END):
            raise TrtdistError(f"{self._run.run_id} is down, but job {self._job} is still there: scancel {self._job}")

    def _ask(self) -> str:
        try:
            return control.ask(self._run, control.DOWN, self._asked_for)
        except PermissionError as error:
            raise InputError(f"{self._run.run_id} is not yours to take down: {error}") from error
        except OSError as error:
            say(f"cannot leave a request for the supervisor ({error.strerror})")
            return ""

    def _what(self) -> str:
        return f"its steps in job {self._job}" if self._borrowed else f"job {self._job}"

    def _cancel(self) -> None:
        """End the job, or in one that is not the run's own the steps that its tasks named."""
        targets = sorted(self._steps) if self._borrowed else [self._job]
        if targets:
            self._call_off(argv.scancel(*targets))

    def _call_off(self, command: list[str]) -> None:
        """Run a form of scancel; what has just ended needs none."""
        self._called_off = True
        try:
            runner.run(command, _PATIENCE)
        except SlurmDownError:
            raise
        except SlurmGoneError:
            return
        except SlurmError as error:
            say(str(error))

    def _over(self) -> bool:
        return self._run.verdict.exists() or self._phase() == states.ENDED

    def _job_over(self) -> bool:
        return self._phase() == states.ENDED

    def _steps_over(self) -> bool:
        """Whether none of the run's steps is at work, asked at most once a second."""
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _LOOK_EVERY
        try:
            running = {step.id for step in parse.steps(runner.run(argv.squeue_steps(self._job)))}
        except SlurmDownError:
            return False
        except SlurmError:
            return True  # Slurm has forgotten the job
        return not running & self._steps

    def _phase(self) -> str:
        """What Slurm says of the job, asked at most once a second; without Slurm here it is thought to live."""
        if time.monotonic() < self._next_look:
            return self._seen
        self._next_look = time.monotonic() + _LOOK_EVERY
        try:
            found = parse.jobs(runner.run(argv.squeue_jobs((self._job,))))
        except (MissingError, SlurmDownError):
            return self._seen
        except SlurmError:
            found = []
        ending = bool(found) and found[0].state == "COMPLETING"
        self._seen = states.LIVE if ending else states.phase(found[0].state) if found else states.ENDED
        return self._seen

    def _wait(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether a condition holds within a time; shows what happens meanwhile."""
        until = time.monotonic() + seconds
        while True:
            held = holds()
            self._display.tell(self._hear())
            if held or time.monotonic() > until:
                return held
            time.sleep(_PACE)

    def _hear(self) -> list[Record]:
        records = self._events.poll()
        self._taken.update(record.event.request for record in records if isinstance(record.event, ControlTaken))
        self._steps.update(
            record.event.slurm_step
            for record in records
            if isinstance(record.event, TaskStarted) and record.event.slurm_step
        )
        return records
