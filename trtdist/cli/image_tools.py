"""Runs the programs that fetch and convert images; they end with this process."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

from trtdist.errors import MissingError, TrtdistError
from trtdist.supervisor.lineage import Bound

__all__ = ["first_of", "run"]

_PACKAGES = {"mksquashfs": "squashfs-tools", "unsquashfs": "squashfs-tools", "ch-run": "charliecloud"}
_ELSEWHERE = {
    "apptainer": "https://apptainer.org",
    "enroot": "https://github.com/NVIDIA/enroot",
}
_LINES = 3


def first_of(programs: Sequence[str], purpose: str) -> str:
    """The first program that is installed; MissingError says what all of them would do and how one is installed."""
    for program in programs:
        if shutil.which(program) is not None:
            return program
    names = " nor ".join(programs) if len(programs) > 1 else programs[0]
    neither = "neither " if len(programs) > 1 else ""
    there = "is" if len(programs) > 1 else "is not"
    raise MissingError(f"{neither}{names} {there} on PATH, which {purpose}: {_remedy(programs[0])}")


def run(argv: Sequence[str], purpose: str, forgiven: str = "") -> str:
    """Run a program to its end and return what it prints. MissingError when it is not installed, OSError (ENOSPC) when
    the disk is full, TrtdistError with its last words when it fails; every complaint that says `forgiven` is none."""
    first_of([argv[0]], purpose)
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        preexec_fn=Bound(os.getpid(), signal.SIGKILL),
    )
    if done.returncode == 0:
        return done.stdout
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    complaints = [line for line in done.stderr.splitlines() if line.strip()]
    if forgiven and complaints and all(forgiven in line for line in complaints):
        return done.stdout
    full = next((line for line in said if "no space left" in line.lower()), None)
    if full is not None:
        raise OSError(errno.ENOSPC, "No space left on device", full)
    last = " | ".join(said[-_LINES:]) or f"exit code {done.returncode}"
    raise TrtdistError(f"{argv[0]}, which {purpose}, failed: {last}")


def _remedy(program: str) -> str:
    if program in _ELSEWHERE:
        return f"load its module, or have it installed ({_ELSEWHERE[program]})"
    package = _PACKAGES.get(program, program)
    return f"as root, `apt-get install {package}` or `dnf install {package}`, or load its module"
