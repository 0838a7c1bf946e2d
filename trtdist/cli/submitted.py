"""A run that was submitted, as whoever waits for it sees it."""

from __future__ import annotations

import time

from trtdist.cli.progress import say
from trtdist.observe.jobs import JobWatcher
from trtdist.observe.state import JobLook
from trtdist.rundir import RunDir
from trtdist.slurm import states
from trtdist.supervisor.facts import Death
from trtdist.supervisor.remains import supervisor_of

__all__ = ["LATE", "Submitted", "ended_with"]

# So long after the end of its job (seconds) a verdict may still be on its way through the file system.
LATE = 10.0


def ended_with(run: RunDir, job: JobLook) -> Death:
    """The end of a supervisor that left no verdict, as Slurm tells it of its job, which has ended."""
    how = f"ended, since {job.detail}"
    if supervisor_of(run) is None:
        how += f"; it never began, as it would when its first node does not see {run.path}"
    return Death("supervisor", "supervisor", None, None, job.ended or time.time(), how, 0)


class Submitted:
    """Follows a job; it is neither interrupted nor killed by who waits, since it is on its own."""

    def __init__(self, run: RunDir, job: str, jobs: JobWatcher) -> None:
        self._run = run
        self._job = job
        self._jobs = jobs
        self._said = ""
        self._gone_since: float | None = None

    def interrupt(self, number: int) -> None:
        """Leave it alone."""

    def kill(self) -> None:
        """Leave it alone."""

    def ended(self) -> Death | None:
        """How it ended: by its verdict, or with its job."""
        if self._run.verdict.exists():
            return Death("supervisor", "supervisor", None, None, time.time(), "", 0)
        look = self._jobs.look(self._job)
        if look is None or look.phase != states.ENDED:
            self._gone_since = None
            self._tell(look.detail if look is not None and look.phase == states.WAITING else "")
            return None
        self._gone_since = time.monotonic() if self._gone_since is None else self._gone_since
        if time.monotonic() - self._gone_since < LATE:
            return None
        return ended_with(self._run, look)

    def _tell(self, detail: str) -> None:
        if detail and detail != self._said:
            say(detail)
            self._said = detail
