"""Has the certificates of a run renewed before they are over. Standard library, Python 3.9."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from trtdist.errors import TrtdistError
from trtdist.rundir import RunDir
from trtdist.services import tls

__all__ = ["NotRenewedError", "Renewal", "renew"]

_SECONDS = 60.0


@dataclass(frozen=True)
class Renewal:
    """Whether the certificates were renewed just now, and in how many seconds that is due again."""

    done: bool
    again_in: float


class NotRenewedError(TrtdistError):
    """Certificates could not be renewed; `over` says whether they can still be used."""

    def __init__(self, message: str, *, over: bool) -> None:
        super().__init__(message)
        self.over = over


def renew(run: RunDir) -> Renewal | None:
    """Renew the certificates of a run of whose life half is over; None for a run that has none.

    The Python that calls this must have the package cryptography, or it is a NotRenewedError, as anything else that
    keeps them from being renewed. Takes a moment, in which files are read and a program runs.
    """
    files = tls.Certificates.of(run)
    if not files.client.exists():
        return None
    due, ends = _dates(files)
    if (left := due - time.time()) > 0:
        return Renewal(False, left)
    problem = _sign(run)
    if problem:
        about = f"the certificates in {files.folder}, valid until {tls.day(ends)}, could not be renewed"
        raise NotRenewedError(f"{about}: {problem}", over=ends < time.time())
    due, _ = _dates(files)
    return Renewal(True, max(0.0, due - time.time()))


def _dates(files: tls.Certificates) -> tuple[float, float]:
    """When the first of the two is to be renewed, and when the first is over."""
    try:
        valid = [tls.validity(path) for path in (files.server, files.client)]
    except (OSError, ValueError) as error:
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        problem = f"the certificates of the run cannot be used ({said}): bring it up again"
        raise NotRenewedError(problem, over=True) from error
    ends = min(end for _, end in valid)
    return min((begin + tls.BACKDATED_S + end) / 2 for begin, end in valid), ends


def _sign(run: RunDir) -> str:
    """Why it could not be done, "" when it was. In a process of its own: the package has no place in this one."""
    words = [sys.executable, "-m", "trtdist.services.authority", str(run.path)]
    try:
        done = subprocess.run(
            words,
            cwd=Path(__file__).parents[2],  # where Python imports from first
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS:g} s"
    except OSError as error:
        return f"{sys.executable} cannot be started: {error.strerror}"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1] if done.returncode else ""
