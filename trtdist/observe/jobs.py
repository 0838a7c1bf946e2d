"""What Slurm says of the jobs of runs: one look at all of them, however many readers ask, at most every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from trtdist.errors import MissingError, SlurmDownError, SlurmError
from trtdist.observe.state import JobLook
from trtdist.slurm import argv, parse, states
from trtdist.slurm.runner import run

__all__ = ["JobWatcher"]

_EVERY = 5.0
_TIMEOUT = 5.0


class JobWatcher:
    """Looks at jobs with one `squeue` for all; between two looks what was seen last is told again.

    How a job ended that Slurm has forgotten meanwhile, `sacct` tells where there is accounting.

    `ask` runs a command line of Slurm's and returns what it printed; `calls` counts how often it did.
    """

    def __init__(self, ask: Callable[[list[str]], str] = lambda words: run(words, timeout=_TIMEOUT)) -> None:
        self._ask = ask
        self._known: set[str] = set()
        self._seen: dict[str, JobLook] = {}
        self._past: dict[str, JobLook] = {}
        self._next = 0.0
        self._nodes: dict[str, tuple[float, bool]] = {}
        self.calls = 0

    def expect(self, jobs: Collection[str]) -> None:
        """Have the next look be at these jobs too."""
        self._known.update(jobs)

    def look(self, job: str) -> JobLook | None:
        """What Slurm says of a job; None when it cannot be asked, here or now, or was not expected."""
        self._known.add(job)
        if time.monotonic() >= self._next:
            self._refresh()
        return self._seen.get(job)

    def down(self, node: str) -> bool:
        """Whether Slurm knows that a node is down."""
        until, known = self._nodes.get(node, (0.0, False))
        if time.monotonic() < until:
            return known
        self.calls += 1
        try:
            listed = parse.node_states(self._ask(argv.sinfo_nodes([node])))
        except (MissingError, SlurmError):
            listed = []
        found = any(name == node and states.node_is_down(state) for name, state in listed)
        self._nodes[node] = (time.monotonic() + _EVERY, found)
        return found

    def _refresh(self) -> None:
        self._next = time.monotonic() + _EVERY
        self.calls += 1
        try:
            listed = parse.jobs(self._ask(argv.squeue_jobs(tuple(sorted(self._known)))))
        except (MissingError, SlurmDownError):
            self._seen.clear()
            return
        except SlurmError:
            # What squeue says when none of the jobs exists any more.
            listed = []
        found = {job.id: _look(job) for job in listed}
        self._look_back(self._known - found.keys() - self._past.keys())
        self._seen = {**self._past, **found}

    def _look_back(self, forgotten: Collection[str]) -> None:
        """Find out how jobs ended that are not listed any more."""
        if not forgotten:
            return
        self.calls += 1
        try:
            told = parse.past_jobs(self._ask(argv.sacct_jobs(tuple(sorted(forgotten)))))
        except (MissingError, SlurmError):
            told = []
        ended = [job for job in told if states.phase(job.state) == states.ENDED]
        self._past.update({**_gone(forgotten), **{job.id: _look(job) for job in ended}})


def _gone(jobs: Collection[str]) -> dict[str, JobLook]:
    """Slurm forgets a job some minutes after its end."""
    return {job: JobLook(job, states.ENDED, f"job {job} is over: Slurm does not know it any more") for job in jobs}


def _look(job: parse.Job) -> JobLook:
    phase = states.phase(job.state)
    if job.state == "COMPLETING":
        # Its last words are still on their way.
        return JobLook(job.id, states.LIVE, f"job {job.id} is being ended")
    if phase == states.ENDED:
        return JobLook(job.id, phase, f"job {job.id} is over: {states.ended_because(job)}", ended=job.end)
    if phase == states.LIVE:
        return JobLook(job.id, phase, f"job {job.id} runs on {job.nodes}")
    hopeless = states.hopeless(job.reason)
    why = f"{job.reason}: {hopeless}" if hopeless else job.reason or job.state
    return JobLook(job.id, phase, f"job {job.id} waits ({why})", starts=job.start)
