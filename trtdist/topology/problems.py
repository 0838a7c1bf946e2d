"""Collects what is wrong while a topology is read."""

from __future__ import annotations

from typing import NoReturn

from trtdist.topology.diagnostics import ERROR, WARNING, Diagnostic, InvalidTopologyError, Origin

__all__ = ["Problems", "shown"]

_SHOWN = 60


def shown(text: str) -> str:
    """A text within a message: quoted, on one line, not longer than a message should be."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


class Problems:
    """The problems found so far; `guesses` counts the searches for what was meant, which take time."""

    def __init__(self) -> None:
        self.found: list[Diagnostic] = []
        self.guesses = 0

    @property
    def errors(self) -> int:
        """How many of them are errors."""
        return sum(diagnostic.severity == ERROR for diagnostic in self.found)

    def error(self, code: str, message: str, origin: Origin) -> None:
        """Note what makes the topology unusable."""
        self.found.append(Diagnostic(code, ERROR, message, origin))

    def warning(self, code: str, message: str, origin: Origin) -> None:
        """Note what the user should know and can live with."""
        self.found.append(Diagnostic(code, WARNING, message, origin))

    def fatal(self, code: str, message: str, origin: Origin) -> NoReturn:
        """Note what leaves nothing to go on with, and stop."""
        self.error(code, message, origin)
        raise InvalidTopologyError(self.found)
