"""Every error that trtdist raises on purpose.

    TrtdistError                  exit code 1
    ├── RunFailedError            1    a run was started and failed
    ├── InputError                2    the topology, an option or a request is wrong
    ├── NotReadyError             3    a run did not become ready in time
    ├── MissingError              4    something that is needed is not there (a binary, a package, Slurm)
    ├── SlurmError                4    Slurm refuses something; the message has its own words
    │   ├── SlurmDownError        4    Slurm's controller does not answer
    │   └── SlurmGoneError        4    Slurm does not know a job or step, or does not know it any more
    └── InterruptedRunError       130  the user asked for the end

Each message is one sentence that says what is wrong, where, and what to do.
"""

from __future__ import annotations

__all__ = [
    "InputError",
    "InterruptedRunError",
    "MissingError",
    "NotReadyError",
    "RunFailedError",
    "SlurmDownError",
    "SlurmError",
    "SlurmGoneError",
    "TrtdistError",
]


class TrtdistError(Exception):
    """An error that is reported as its message, never as a traceback."""

    exit_code = 1

    def told(self) -> str:
        """What the command line says of it."""
        return f"trtdist: {self}"


class RunFailedError(TrtdistError):
    """A run was started and failed."""


class InputError(TrtdistError):
    """The topology, an option or a request is wrong."""

    exit_code = 2


class NotReadyError(TrtdistError):
    """A run did not become ready in time."""

    exit_code = 3


class MissingError(TrtdistError):
    """Something that is needed is not there; the message has the command that installs it."""

    exit_code = 4


class SlurmError(TrtdistError):
    """Slurm refuses something; the message has its own words."""

    exit_code = 4


class SlurmDownError(SlurmError):
    """Slurm's controller does not answer."""


class SlurmGoneError(SlurmError):
    """Slurm does not know a job or step, or does not know it any more."""


class InterruptedRunError(TrtdistError):
    """The user asked for the end before the work was done."""

    exit_code = 130
