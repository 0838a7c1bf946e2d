"""Finding a run by what a person types: an id, the start of one, a topology's name, or nothing for the newest."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trtdist import chain
from trtdist.errors import InputError
from trtdist.rundir import LATEST, RunDir, runs_root

__all__ = ["find_run", "list_runs", "topology_name"]

_RUN_ID = re.compile(r"(?P<name>.+)-(?P<stamp>\d{8}-\d{6})-[0-9a-f]{4}")
_SHOWN = 3


def topology_name(run_id: str) -> str:
    """The topology's name within a run id (`tiny-20261124-101500-3fa9` is a run of `tiny`); "" for another word."""
    match = _RUN_ID.fullmatch(run_id)
    return match["name"] if match else ""


def list_runs(environ: Mapping[str, str]) -> list[RunDir]:
    """All runs of this user, newest first; empty when there is no folder of runs. InputError when it is unreadable."""
    root = runs_root(environ)
    try:
        names = [entry.name for entry in os.scandir(root) if _RUN_ID.fullmatch(entry.name) and entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot list the runs under {root}: {error.strerror}; is TRTDIST_RUNS right?") from error
    return [RunDir(root / name) for name in sorted(names, key=lambda name: _age(root, name), reverse=True)]


def find_run(selector: str | None, environ: Mapping[str, str]) -> RunDir:
    """The run that `selector` means.

    In this order: the folder of a run (anything with a slash), a run id, a topology's name (its newest run, without one
    that waits to take over from another), the id of a job of Slurm's (its newest run), the start of exactly one run id,
    the folder of a run without a slash; nothing or `latest` is the newest run. InputError names what could have been
    meant.
    """
    if selector and "/" in selector:
        return _folder(selector)
    runs = list_runs(environ)
    if selector and not _meant(selector, runs) and RunDir(Path(selector)).plan.is_file():
        return _folder(selector)
    if not runs:
        root = runs_root(environ)
        raise InputError(f"there is no run under {root}: start one with `trtdist up FILE --local`, or set TRTDIST_RUNS")
    if selector is None or selector == LATEST:
        return _latest(environ, runs)
    return _named(selector, runs)


def _age(root: Path, name: str) -> tuple[str, int, str]:
    """Sorts run ids by the second in them, within one second by when the topology was written."""
    match = _RUN_ID.fullmatch(name)
    try:
        written = (root / name / "topology.yaml").stat().st_mtime_ns
    except OSError:
        written = 0
    return (match["stamp"] if match else "", written, name)


def _folder(selector: str) -> RunDir:
    path = Path(os.path.abspath(os.path.expanduser(selector)))
    run = RunDir(path)
    if not run.plan.is_file():
        raise InputError(f"{selector} is not the folder of a run: it has no plan.json")
    return run


def _latest(environ: Mapping[str, str], runs: Sequence[RunDir]) -> RunDir:
    link = runs_root(environ) / LATEST
    try:
        target = Path(os.readlink(link)).name
    except OSError:
        return runs[0]
    return next((run for run in runs if run.run_id == target), runs[0])


def _meant(selector: str, runs: Sequence[RunDir]) -> bool:
    """Whether a word may mean one of these runs."""
    if selector == LATEST:
        return bool(runs)
    return any(run.run_id.startswith(selector) or selector in _jobs(run) for run in runs)


def _jobs(run: RunDir) -> tuple[str, str]:
    return _read(run.slurm_job), _read(run.borrowed_job)


def _named(selector: str, runs: Sequence[RunDir]) -> RunDir:
    for run in runs:
        if run.run_id == selector:
            return run
    for run in runs:
        if topology_name(run.run_id) == selector and not chain.in_waiting(run):
            return run
    for run in runs if selector.isdigit() else ():
        if selector in _jobs(run):
            return run
    found = [run for run in runs if run.run_id.startswith(selector)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{selector!r} is the start of {len(found)} runs: {_some(found)}; write more of the id")
    names = [run.run_id for run in runs] + [topology_name(run.run_id) for run in runs]
    near = difflib.get_close_matches(selector, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {_some(runs)}"
    raise InputError(f"no run matches {selector!r}; {hint}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _some(runs: Sequence[RunDir]) -> str:
    shown = ", ".join(run.run_id for run in runs[:_SHOWN])
    more = len(runs) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
