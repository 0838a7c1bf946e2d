"""The allocation in which `doctor` looks at nodes: the one that is there, or one that salloc gets for some minutes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from trtdist.cli import jobs
from trtdist.cli.progress import say
from trtdist.errors import SlurmGoneError
from trtdist.slurm import argv, hostlist, parse, runner
from trtdist.slurm.argv import JobOptions

__all__ = ["Job", "allocated"]

_ALLOCATION = re.compile(r"Granted job allocation (\d+)")
_MINUTES = 5
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Job:
    """A job with the names of its nodes, in Slurm's order."""

    id: str
    nodes: tuple[str, ...]


@contextmanager
def allocated(options: JobOptions) -> Iterator[Job]:
    """The job of this shell, or one of its own, which ends with the block, and in some minutes by itself.

    InputError when no such nodes can be had, or the allocation that is there is too small. TERM and HUP are taken as
    Ctrl-C, which leaves nothing behind.
    """
    with _interruptible():
        yield from _allocated(options)


def _allocated(options: JobOptions) -> Iterator[Job]:
    if os.environ.get("SLURM_JOB_ID"):
        jobs.require_slurm("srun")
        there = jobs.refuse_small(options, os.environ)
        yield Job(there.id, tuple(hostlist.expand(there.nodes))[: options.nodes])
        return
    jobs.require_slurm("salloc")
    jobs.refuse_misfit(options)
    # A short job is let in before others; nobody is to be warned of its end.
    number = _allocate(replace(options, name="trtdist-doctor", time=f"00:0{_MINUTES}:00", warning=0))
    try:
        shown = parse.jobs(runner.run(argv.squeue_jobs((number,)), _PATIENCE_S))[0]
        yield Job(number, tuple(hostlist.expand(shown.nodes)))
    finally:
        with suppress(SlurmGoneError):
            runner.run(argv.scancel(number), _PATIENCE_S)


def _allocate(options: JobOptions) -> str:
    """The number of a new job, as soon as it has its nodes; it is given up when this command is ended."""
    say(f"asking Slurm for {options.nodes} node{'' if options.nodes == 1 else 's'} for {_MINUTES} minutes")
    words = argv.salloc(options)
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, said = process.communicate()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    found = _ALLOCATION.search(said)
    if process.returncode != 0 or found is None:
        raise jobs.rejected(" ".join(said.split()) or "salloc ended without a word", options)
    return found[1]


@contextmanager
def _interruptible() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
