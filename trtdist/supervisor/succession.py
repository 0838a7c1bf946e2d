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
from trtdist.errors import SlurmDownError, SlurmError, TrtdistError
from trtdist.newrun import make_run, stamped
from trtdist.plan import from_json
from trtdist.rundir import RunDir, write_atomic
from trtdist.services.envfile import read_env_or_nothing
from trtdist.slurm import argv, parse, states
from trtdist.slurm.runner import ask
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
_TO_SUBMIT = 20.0


class Succession:
    """The runs that were asked for to take over from `run`, one after the other; `say` takes sentences."""

    def __init__(self, run: RunDir, say: Callable[[str], None]) -> None:
        self._run = run
        self._say = say
        self._asking: asyncio.Task[tuple[RunDir, str]] | None = None

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

    async def call_off(self) -> None:
        """See to it that the last one does not come up: taken from the queue, or asked to stop."""
        if self._asking is None:
            return
        await asyncio.wait({self._asking}, timeout=_TO_SUBMIT)
        if not self._asking.done() or self._asking.exception() is not None:
            return
        run, job = self._asking.result()
        try:
            control.ask(run, control.DOWN)
            await ask(argv.scancel_waiting(job))
            waits = supervisor_of(run) is None and await _phase(job) == states.ENDED
            if waits:
                reason = f"called off while job {job} waited, since {self._run.run_id} was stopped"
                verdict.write_once(run, verdict.compose(Outcome("STOPPED", 0, reason), run, None))
        except (TrtdistError, OSError) as error:
            self._say(f"job {job} of {run.run_id} may still be there: {error}")

    async def _ask(self) -> tuple[RunDir, str]:
        """The new run and the id of its job; of one that Slurm refuses nothing stays."""
        run = await asyncio.to_thread(make_successor, self._run, time.time())
        words = ["sbatch", "--parsable", f"--chdir={run.path}", "--output=/dev/null"]
        environ = original(self._run, os.environ)
        try:
            job = parse.job_id(await ask([*words, str(run.path / "job.sbatch"), str(run.path)], environ=environ))
        except SlurmDownError as error:
            # It may have been taken all the same; a run with a verdict does not begin.
            verdict.write_once(run, verdict.compose(Outcome("FAILED", 1, str(error)), run, None))
            raise
        except (TrtdistError, ValueError):
            self._run.next_run.unlink()
            shutil.rmtree(run.path, ignore_errors=True)
            raise
        write_atomic(run.slurm_job, job + "\n")
        return run, job

    async def _outcome(self, run: RunDir, job: str) -> messages.Input:
        """Return when it has taken over, or has ended."""
        look_at = gone_at = 0.0
        gone = False
        while True:
            if chain.heir(self._run) == run:
                return SuccessorReady(run.run_id, job, 0.0)
            found = verdict.read(run)
            if found is not None:
                how = f"{found.get('state')}, {found.get('reason')}"
                return SuccessorLost(f"{run.run_id} (job {job}) has ended before it was READY ({how})")
            now = time.monotonic()
            if gone and now - gone_at > _LATE:
                return SuccessorLost(f"job {job} of {run.run_id} has ended, and it left no verdict")
            if now >= look_at:
                look_at = now + _LOOK_EVERY
                over = await self._over(job)
                gone_at = now if over and not gone else gone_at
                gone = over
            await asyncio.sleep(_PACE)

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
        write_atomic(made.previous_run, run.run_id + "\n")

    return make_run(
        run.path.parent, stamped(name, now), fill, lambda made: write_atomic(run.next_run, made.run_id + "\n")
    )


def original(run: RunDir, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which the job of `run` was submitted, from that of its supervisor."""
    added = {"TRTDIST_JOB_NODELIST", *read_env_or_nothing(run.given_env)}
    found = {
        name: value
        for name, value in argv.without_outer_task(environ).items()
        if name not in added and not name.startswith(("SBATCH_", "SLURMD_"))
    }
    paths = [path for path in found.pop("PYTHONPATH", "").split(os.pathsep) if path and path != str(run.site)]
    return {**found, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}


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
