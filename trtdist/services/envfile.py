"""Files of shell assignments, such as resolved.env: written for `source`, read without a shell. Python 3.9."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from trtdist.errors import TrtdistError
from trtdist.rundir import write_atomic

__all__ = ["format_env", "parse_env", "read_env", "read_env_or_nothing", "write_env"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def format_env(values: Mapping[str, str]) -> str:
    """One `NAME=value` for each value, quoted for the shell; ValueError for what no shell variable can hold."""
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a shell variable")
        if "\0" in value:
            raise ValueError(f"the value of {name} has a NUL")
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def parse_env(text: str) -> dict[str, str]:
    """The assignments of a text, the last one of a name; ValueError for what is none."""
    found: dict[str, str] = {}
    for word in shlex.split(text, comments=True):
        name, equals, value = word.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ValueError(f"{word!r} is no assignment")
        found[name] = value
    return found


def read_env(path: Path) -> dict[str, str]:
    """The assignments of a file. TrtdistError when it cannot be read or holds something else."""
    try:
        return parse_env(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise TrtdistError(f"{path} cannot be read: {error.strerror}; bring the run up again") from error
    except ValueError as error:
        raise TrtdistError(f"{path} is damaged ({error}); bring the run up again") from error


def read_env_or_nothing(path: Path) -> dict[str, str]:
    """The same for a file that may not be there yet, or that somebody damaged: empty then."""
    try:
        return read_env(path)
    except TrtdistError:
        return {}


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """Write a file of assignments so that a reader sees all of it or the file of before. OSError, ValueError."""
    write_atomic(path, format_env(values))
