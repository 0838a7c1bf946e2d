"""Which runs have not ended, and which of them is meant where nobody named one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trtdist import chain
from trtdist.errors import InputError
from trtdist.observe.jobs import JobWatcher
from trtdist.observe.runs import find_run, list_runs, topology_name
from trtdist.observe.snapshot import RunReader, job_of
from trtdist.rundir import LATEST, RunDir
from trtdist.supervisor import verdict

__all__ = ["Brief", "briefs", "find_live_run", "find_serving_run", "live_runs"]


@dataclass(frozen=True)
class Brief:
    """A run in one line; times in seconds since the epoch, None for what has not happened."""

    run_id: str
    run_dir: str
    name: str
    state: str
    detail: str
    begun: float | None
    ended: float | None


def briefs(runs: Iterable[RunDir]) -> list[Brief]:
    """What is to say of each run among many; UNKNOWN when its folder cannot be read."""
    chosen = list(runs)
    jobs = _watching(run for run in chosen if not run.verdict.exists())
    return [_brief(run, jobs) for run in chosen]


def _brief(run: RunDir, jobs: JobWatcher) -> Brief:
    who = (run.run_id, str(run.path), topology_name(run.run_id))
    begun = _begun(run.run_id)
    found = verdict.read(run)
    if found is not None:
        ended = found.get("time")
        return Brief(*who, str(found.get("state")), str(found.get("reason", "")), begun, ended)
    try:
        status = RunReader(run, jobs).look().status
    except InputError as error:
        return Brief(*who, "UNKNOWN", str(error), begun, None)
    return Brief(*who, status.state, status.detail, begun, status.ended)


def live_runs(runs: Iterable[RunDir]) -> list[RunDir]:
    """Those that have not ended, in the same order."""
    without_verdict = [run for run in runs if not run.verdict.exists()]
    jobs = _watching(without_verdict)
    return [run for run in without_verdict if _lives(run, jobs)]


def find_live_run(selector: str | None, environ: Mapping[str, str]) -> RunDir:
    """As `find_run`; where that is the newest of several runs, the newest that has not ended, if there is one."""
    found = find_run(selector, environ)
    if selector == LATEST or selector not in (None, topology_name(found.run_id)) or live_runs([found]):
        return found
    runs = [run for run in list_runs(environ) if selector in (None, topology_name(run.run_id))]
    return next(iter(live_runs(run for run in runs if not chain.in_waiting(run))), found)


def find_serving_run(selector: str | None, environ: Mapping[str, str]) -> RunDir:
    """As `find_live_run`, and from a run that was handed over to the one that has taken over."""
    return chain.newest(find_live_run(selector, environ))


def _watching(runs: Iterable[RunDir]) -> JobWatcher:
    """Asks Slurm once about the jobs of all runs."""
    jobs = JobWatcher()
    jobs.expect([job for job in map(job_of, runs) if job])
    return jobs


def _lives(run: RunDir, jobs: JobWatcher) -> bool:
    try:
        return not RunReader(run, jobs).look().final
    except InputError:
        return False


def _begun(run_id: str) -> float | None:
    """The second in the id of a run, which is local time."""
    try:
        return time.mktime(time.strptime("-".join(run_id.split("-")[-3:-1]), "%Y%m%d-%H%M%S"))
    except (ValueError, OverflowError):
        return None
