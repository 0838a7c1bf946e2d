"""Runs Slurm's programs: the only place that does, srun steps apart, which launch lines start.

A controller that does not answer is asked again for as long as the caller is patient. Standard library, Python 3.9.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence

from trtdist.errors import MissingError, SlurmDownError, SlurmError, SlurmGoneError

__all__ = ["TIMEOUT", "Call", "ask", "run"]

TIMEOUT = 20.0
_POLL, _RETRY = 0.02, 1.0
# What Slurm 20.11 to 24.11 say when slurmctld is down, busy or unreachable (src/common/slurm_errno.c).
_DOWN = re.compile(
    r"unable to contact slurm controller|socket timed out|connection refused|transport endpoint|zero bytes"
    r"|unable to connect|slurm backup controller|failed to contact|communication connection failure|try again later",
    re.IGNORECASE,
)
# The same when it finds no configuration, or none that names a controller; the last line says it all.
_UNCONFIGURED = re.compile(r"configuration source|cannot stat file|control machine address", re.IGNORECASE)
_CONFIGURE = "set SLURM_CONF to the configuration of the cluster, or run this on one of its login nodes"
# ESLURM_INVALID_JOB_ID, ESLURM_ALREADY_DONE and what is said of steps.
_GONE = re.compile(r"invalid job id|already completing or completed|invalid job/step", re.IGNORECASE)
# Users set these to have other columns; --format wins over them, but not all have an option.
_TASTES = ("SQUEUE_", "SINFO_", "SCANCEL_", "SCONTROL_")


class Call:
    """One run of a Slurm program, to be polled; it is killed after `timeout` seconds. It has the environment of this
    process unless another is given.

    MissingError when there is no such program, or SLURM_CONF names no file.
    """

    def __init__(self, argv: Sequence[str], timeout: float = TIMEOUT, environ: Mapping[str, str] | None = None) -> None:
        _look_for_configuration(os.environ)
        self._program = argv[0]
        self._until = time.monotonic() + timeout
        # Files in memory, since a pipe that nobody empties would stop a long list.
        self._said, self._complained = os.memfd_create("stdout"), os.memfd_create("stderr")
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._complained,
                env=_environment(os.environ if environ is None else environ),
                start_new_session=True,
            )
        except FileNotFoundError as error:
            self._close()
            remedy = "run this where Slurm's client programs are, or load their module"
            raise MissingError(f"{argv[0]} is not on PATH: {remedy}") from error

    def done(self) -> bool:
        """Whether the program has ended."""
        if self._process.poll() is None and time.monotonic() > self._until:
            self._process.kill()
            self._process.wait()
        return self._process.returncode is not None

    def abandon(self) -> None:
        """Kill the program: nobody waits for it any more."""
        self._process.kill()
        self._process.wait()
        self._close()

    def output(self) -> str:
        """What the program that is done printed (older ones list things on stderr); SlurmError if it failed.

        MissingError when Slurm is not configured here, which tells nothing of any job.
        """
        text, words = _content(self._said), _content(self._complained)
        self._close()
        code = self._process.returncode
        if code == 0:
            return text or words
        lines = [_without_program(line.strip()) for line in words.splitlines() if line.strip()]
        if _UNCONFIGURED.search(words):
            raise MissingError(f"Slurm is not configured here ({self._program}: {lines[-1]}): {_CONFIGURE}")
        message = "; ".join(lines) or f"exit code {code}, without a word"
        # scancel asks again and again about a step that has ended.
        if code < 0 and not _GONE.search(message):
            said = f" ({lines[-1]})" if lines else ""
            raise SlurmDownError(f"{self._program} did not answer in time{said}: is Slurm's controller up?")
        gone = SlurmGoneError if _GONE.search(message) else SlurmError
        kind = SlurmDownError if _DOWN.search(message) else gone
        raise kind(f"{self._program}: {message}")

    def _close(self) -> None:
        os.close(self._said)
        os.close(self._complained)


def run(argv: Sequence[str], patience: float = 0.0, timeout: float = TIMEOUT) -> str:
    """Run a Slurm program to its end and return what it printed.

    A controller that is down is asked again until `patience` seconds have passed, then SlurmDownError. SlurmError
    with Slurm's own words when it refuses, MissingError without the program or its configuration.
    """
    until = time.monotonic() + patience
    while True:
        call = Call(argv, timeout)
        while not call.done():
            time.sleep(_POLL)
        try:
            return call.output()
        except SlurmDownError:
            if time.monotonic() + _RETRY > until:
                raise
            time.sleep(_RETRY)


async def ask(argv: Sequence[str], timeout: float = TIMEOUT, environ: Mapping[str, str] | None = None) -> str:
    """The same for an event loop, once; the program is killed when that is cancelled."""
    import asyncio  # here, since `status` and `logs` have to start at once and ask without a loop

    call = Call(argv, timeout, environ)
    try:
        while not call.done():
            await asyncio.sleep(_POLL)
    except asyncio.CancelledError:
        call.abandon()
        raise
    return call.output()


def _look_for_configuration(environ: Mapping[str, str]) -> None:
    """Slurm's programs wait for the file in vain, those of 22.05 for longer than `TIMEOUT`."""
    named = environ.get("SLURM_CONF", "")
    if named and not os.path.exists(named):
        raise MissingError(f"Slurm is not configured here (SLURM_CONF names {named}, which is not there): {_CONFIGURE}")


def _content(descriptor: int) -> str:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", "replace")


def _without_program(line: str) -> str:
    """A complaint without the "scontrol: error: " before it."""
    return re.sub(r"^\w+: (error: |fatal: )?", "", line)


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what changes the columns; times as seconds since the epoch, messages in English."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_TASTES)}
    return {**kept, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C.UTF-8"}
