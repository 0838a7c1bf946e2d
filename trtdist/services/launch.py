"""What starts a head service. Standard library, Python 3.9."""

from __future__ import annotations

from dataclasses import dataclass

from trtdist.errors import TrtdistError
from trtdist.rundir import RunDir

__all__ = ["Launch", "read_secret"]


@dataclass(frozen=True)
class Launch:
    """A program with its arguments; environment variables that begin with `without` are kept from it."""

    argv: tuple[str, ...]
    without: str = "\0"


def read_secret(run: RunDir, name: str) -> str:
    """A file of `secrets/`; TrtdistError when it cannot be read."""
    path = run.secrets / name
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise TrtdistError(f"{path} cannot be read: {reason}; bring the run up again") from error
