"""The commands of a container, each as the words that its program is given.

Kubernetes puts a variable in for `$(NAME)` alone, as text and before anything else, and the shell of the container, if
it has one, for `$NAME` and `${NAME}`, where no single quotes are around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Union

__all__ = ["commands"]

_SHELLS = {"sh", "bash"}
_OF_KUBERNETES = re.compile(r"\$\((\w+)\)")
_PIECE = re.compile(
    r"""
      (?P<joined> \\\n)
    | (?P<gap> [ \t\r]+ | (?<![^\s;&|()])\#[^\n]* | (?:\d*|&)[<>]+&?[ \t]*[^\s;&|<>()]*)
    | (?P<end> [;&|()\n]+)
    | '(?P<single> [^']*)'
    | "(?P<double> (?:[^"\\]|\\.)*)"
    | \\(?P<escaped> .)
    | (?P<variable> \$\w+ | \$\{\w+\})
    | (?P<bare> \$\((?:[^()]|\([^()]*\))*\) | [^\s'"\\$;&|<>()]+ | .)
    """,
    re.VERBOSE | re.DOTALL,
)
_IN_QUOTES = re.compile(r"\\(?P<escaped>[\\\"$`\n])|\$\w+|\$\{\w+\}")


class _Mark(Enum):
    GAP = "a word ends"
    END = "a command ends"


_Part = Union[str, _Mark]


def commands(listed: Sequence[str], env: Mapping[str, str]) -> Iterator[list[str]]:
    """The commands of a container, of which `listed` are its command and arguments, one after the other.

    One text alone is taken as what a shell is given. Redirections are left out.
    """
    words = [_OF_KUBERNETES.sub(lambda found: env.get(found[1], found[0]), word) for word in listed]
    if len(words) != 1 and not any(word.rpartition("/")[2] in _SHELLS for word in words[:1]):
        yield words
        return
    command: list[str] = []
    word: str | None = None
    for part in _parts(" ".join(words), env):
        if isinstance(part, str):
            word = (word or "") + part
            continue
        if word is not None:
            command.append(word)
            word = None
        if part is _Mark.END:
            yield command
            command = []


def _parts(text: str, env: Mapping[str, str]) -> Iterator[_Part]:
    for piece in _PIECE.finditer(text):
        kind = piece.lastgroup or "bare"
        if kind == "variable":
            yield from _unquoted(_value(piece["variable"], env))
        elif kind == "double":
            yield _IN_QUOTES.sub(lambda found: _meant(found, env), piece["double"])
        elif kind in ("gap", "end"):
            yield _Mark[kind.upper()]
        elif kind != "joined":
            yield piece[kind]
    yield _Mark.END


def _unquoted(value: str) -> Iterator[_Part]:
    """A value that no quotes keep together: blanks in it end words."""
    for piece in re.findall(r"\s+|\S+", value):
        yield _Mark.GAP if piece.isspace() else piece


def _meant(found: re.Match[str], env: Mapping[str, str]) -> str:
    escaped = found["escaped"]
    return _value(found[0], env) if escaped is None else escaped.strip("\n")


def _value(written: str, env: Mapping[str, str]) -> str:
    """The value of `$NAME` or `${NAME}`, or what was written when nothing gives it one."""
    return env.get(written.strip("${}"), written)
