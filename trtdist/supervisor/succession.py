"""Has Slurm start the run that takes over from this one, from within its job, and follows it. Standard library, Python
3.9.

It is another run of the same files: the same topology, plan, scripts and credentials, in a folder of its own beside
this one, with a job like this one's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress

from trtdist import chain
from trtdist.errors import SlurmDownError, SlurmError, SlurmGoneError, TrtdistError
from trtdist.newrun import make_run, stamped
from trtdist.plan import from_json
from trtdist.rundir import RunDir, write_atomic
from trtdist.services.envfile import read_env_or_nothing
from trtdist.slurm import argv, parse, states
from trtdist.slurm.runner import TIMEOUT, ask
from trtdist.slurm.submission import Submission
from trtdist.supervisor import control, messages, verdict
from trtdist.supervisor.facts import Outcome
from trtdist.supervisor.handover_messages import SuccessorAsked, SuccessorLost, SuccessorReady
from trtdist.supervisor.remains import supervisor_of

__all__ = ["Succession", "make_successor", "original"]

_FOLDERS = ("scripts", "secrets", "site")
_EMPTY = ("logs", "events", "control")
_PACE, _LOOK_EVERY = 0.5, 10.0
# So long after the end of its job a verdict may still be on its way through the file system.
_LATE = 10.0
# How long sbatch may go on once nobody wants the job any more, and how long scancel is tried.
_TO_SUBMIT, _TO_CANCEL, _AGAIN = 10.0, 15.0, 1.0
# Longer than sbatch, and what asks what became of it, may take.
_TO_SETTLE = 2 * TIMEOUT + 5.0


class Succession:
    """The runs that were asked for to take over from `run`, one after the other; `say` takes sentences."""

    def __init__(self, run: RunDir, say: Callable[[str], None]) -> None:
        self._run = run
        self._say = say
        self._made: list[RunDir] = []
        self._asking: asyncio.Task[tuple[RunDir, str]] | None = None
        self._unwanted = False

    async def begin(self) -> AsyncIterator[messages.Input]:
        """Ask for another run; what becomes of it, until it has taken over or will not."""
        self._asking = asyncio.ensure_future(self._ask())
        try:
            # Whoever does not want to hear of it any more must still know of its job.
            run, job = await asyncio.shield(self._asking)
        except (TrtdistError, OSError, ValueError) as error:
            yield SuccessorLost(f"the next job could not be submitted: {error}")
            return
        yield SuccessorAsked(run.run_id, job)
        yield await self._outcome(run, job)

    async def settled(self) -> None:
        """Return when no submission is under way."""
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=_TO_SETTLE)

    async def call_off(self) -> None:
        """See to it that none comes up: taken from the queue, or asked to stop."""
        self._unwanted = True
        if self._asking is None:
            return
        await asyncio.wait({self._asking}, timeout=_TO_SUBMIT)
        self._asking.cancel()
        await asyncio.wait({self._asking})
        try:
            await self._remove([run for run in self._made if self._stop(run)])
        except (TrtdistError, OSError) as error:
            self._say(f"a job of {', '.join(run.run_id for run in self._made)} may still be there: {error}")

    def _stop(self, run: RunDir) -> bool:
        """Ask a run to stop; whether it has not begun, and has its verdict instead."""
        begun = supervisor_of(run) is not None
        job = _job_of(run)
        reason = f"called off while {f'job {job}' if job else 'its job'} waited, since {self._run.run_id} was stopped"
        try:
            chain.call_off(self._run, run)
            control.ask(run, control.DOWN)
            if not begun:
                _bury(run, Outcome("STOPPED", 0, reason))
        except OSError as error:
            self._say(f"{run.run_id} cannot be told that it is called off: {error}")
        return not begun

    async def _ask(self) -> tuple[RunDir, str]:
        """The new run and the id of its job; of one that Slurm refuses nothing stays."""
        run = await asyncio.to_thread(make_successor, self._run, time.time())
        self._made.append(run)
        try:
            if self._unwanted:
                raise TrtdistError("it was called off")
            job = await self._submit(run)
        except (SlurmDownError, ValueError) as error:
            # A job that is there all the same does not begin.
            chain.call_off(self._run, run)
            _bury(run, Outcome("FAILED", 1, str(error)))
            raise
        except (TrtdistError, OSError):
            self._forget(run)
            raise
        try:
            write_atomic(run.slurm_job, job + "\n")
        except OSError:
            await _cancel([job])
            self._forget(run)
            raise
        return run, job

    async def _submit(self, run: RunDir) -> str:
        """The id of the job, also where sbatch did not tell it."""
        given = Submission.read(run.submission)
        environ = given.surroundings(original(self._run, os.environ))
        try:
            return parse.job_id(await ask(given.command(run.path), environ=environ))
        except (SlurmDownError, ValueError):
            with suppress(SlurmError):
                for job in await _jobs_of([run]):
                    return job
            raise

    def _forget(self, run: RunDir) -> None:
        self._made.remove(run)
        self._run.next_run.unlink(missing_ok=True)
        shutil.rmtree(run.path, ignore_errors=True)

    async def _remove(self, runs: list[RunDir]) -> None:
        """End the jobs of runs that have not begun, those of which sbatch did not tell included."""
        jobs = [job for job in map(_job_of, runs) if job]
        untold = [run for run in runs if not _job_of(run)]
        if untold:
            found = await _jobs_of(untold)
            if not found:
                # What an sbatch that was killed has sent may be on its way.
                await asyncio.sleep(_AGAIN)
                found = await _jobs_of(untold)
            jobs += found
        if jobs:
            await _cancel(jobs)

    async def _outcome(self, run: RunDir, job: str) -> messages.Input:
        """Return when it has taken over, or has ended, or its job is gone; it does not take over afterwards then."""
        look_at, gone_at = 0.0, None
        while True:
            found = self._told(run, job)
            if found is not None:
                return found
            now = time.monotonic()
            if now >= look_at:
                look_at = now + _LOOK_EVERY
                if not await self._over(job):
                    gone_at = None
                elif gone_at is None:
                    gone_at = now
                elif now - gone_at >= _LATE:
                    return self._told(run, job) or await self._give_up(run, job)
            await asyncio.sleep(_PACE)

    def _told(self, run: RunDir, job: str) -> messages.Input | None:
        """What the run itself says became of it."""
        if chain.heir(self._run) == run:
            return SuccessorReady(run.run_id, job, 0.0)
        found = verdict.read(run)
        if found is None:
            return None
        how = f"{found.get('state')}, {found.get('reason')}"
        return SuccessorLost(f"{run.run_id} (job {job}) has ended before it was READY ({how})")

    async def _give_up(self, run: RunDir, job: str) -> messages.Input:
        """Should its job be there all the same, it ends, or finds that it is not waited for."""
        reason = f"job {job} of {run.run_id} has ended, and it left no verdict"
        try:
            chain.call_off(self._run, run)
            if chain.heir(self._run) == run:
                return SuccessorReady(run.run_id, job, 0.0)
            _bury(run, Outcome("FAILED", 1, reason))
            await _cancel([job])
        except (TrtdistError, OSError) as error:
            self._say(f"job {job} of {run.run_id} may still be there: {error}")
        return SuccessorLost(reason)

    async def _over(self, job: str) -> bool:
        try:
            return await _phase(job) == states.ENDED
        except TrtdistError as error:
            self._say(str(error))
            return False


def make_successor(run: RunDir, now: float) -> RunDir:
    """Make the folder of the run that takes over from `run`, beside it; `now` (epoch seconds) is in its name. OSError,
    and ValueError for a folder that is no run's."""
    name = from_json(run.plan.read_text(encoding="utf-8")).name

    def fill(made: RunDir) -> None:
        for folder in _EMPTY:
            (made.path / folder).mkdir(mode=0o700)
        for folder in _FOLDERS:
            shutil.copytree(run.path / folder, made.path / folder)
        for file in (run.topology, run.plan, run.given_env, run.path / "job.sbatch"):
            shutil.copy2(file, made.path / file.name)
        if run.submission.exists():
            shutil.copy2(run.submission, made.submission)
        write_atomic(made.previous_run, run.run_id + "\n")

    return make_run(
        run.path.parent, stamped(name, now), fill, lambda made: write_atomic(run.next_run, made.run_id + "\n")
    )


def original(run: RunDir, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which the job of `run` was submitted, but for `SBATCH_*`, from that of its supervisor."""
    added = {"TRTDIST_JOB_NODELIST", *read_env_or_nothing(run.given_env)}
    found = {
        name: value
        for name, value in argv.without_outer_task(environ).items()
        if name not in added and not name.startswith(("SBATCH_", "SLURMD_"))
    }
    paths = [path for path in found.pop("PYTHONPATH", "").split(os.pathsep) if path and path != str(run.site)]
    return {**found, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}


def _bury(run: RunDir, outcome: Outcome) -> None:
    verdict.write_once(run, verdict.compose(outcome, run, None))


def _job_of(run: RunDir) -> str:
    """The job of a run as far as sbatch told it; "" otherwise."""
    return run.slurm_job.read_text(encoding="utf-8").strip() if run.slurm_job.exists() else ""


async def _jobs_of(runs: list[RunDir]) -> list[str]:
    """The jobs that Slurm has of runs, by their folders."""
    folders = {str(run.path) for run in runs}
    return [job for job, folder in parse.folders(await ask(argv.squeue_folders())) if folder in folders]


async def _cancel(jobs: list[str]) -> None:
    """End jobs, trying again while Slurm does not answer; those that are over already are no error."""
    until = time.monotonic() + _TO_CANCEL
    while True:
        try:
            await ask(argv.scancel(*jobs), until - time.monotonic())
            return
        except SlurmGoneError:
            return
        except SlurmDownError:
            if time.monotonic() + _AGAIN > until:
                raise
            await asyncio.sleep(_AGAIN)


async def _phase(job: str) -> str:
    """What Slurm says of a job, which it may have forgotten."""
    found: list[parse.Job] = []
    try:
        found = parse.jobs(await ask(argv.squeue_jobs((job,))))
    except SlurmDownError:
        raise
    except SlurmError:
        with suppress(SlurmError):
            found = parse.past_jobs(await ask(argv.sacct_jobs((job,))))
    return states.phase(found[0].state) if found and found[0].state != "COMPLETING" else states.ENDED
