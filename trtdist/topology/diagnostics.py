"""A problem in a topology, told as a compiler would: where, what, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from trtdist.errors import InputError

__all__ = ["ERROR", "WARNING", "Diagnostic", "InvalidTopologyError", "Origin", "Source", "excerpt", "report"]

ERROR = "error"
WARNING = "warning"
_EXCERPT_WIDTH = 120
_MOST_SHOWN = 100


@dataclass(frozen=True)
class Source:
    """Something that was read: a file by the name that the user gave, or a `--set` option.

    `order` sorts the problems of several sources; `lines` are for excerpts.
    """

    name: str
    order: int = 0
    lines: tuple[str, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Origin:
    """A place in a source; line and column count from 1, 0 when the source as a whole is meant."""

    source: Source
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}" if self.line else self.source.name


@dataclass(frozen=True)
class Diagnostic:
    """One problem; `code` is stable (`trtdist explain CODE`), `severity` is `error` or `warning`."""

    code: str
    severity: str
    message: str
    origin: Origin

    def __str__(self) -> str:
        return f"{self.origin}: {self.severity}[{self.code}]: {self.message}"

    @property
    def sort_key(self) -> tuple[int, str, int, int, str, str]:
        """Orders problems by source and position."""
        origin = self.origin
        return (origin.source.order, origin.source.name, origin.line, origin.column, self.code, self.message)


class InvalidTopologyError(InputError):
    """A topology cannot be used; `diagnostics` has every problem, in order of position."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(sorted(diagnostics, key=lambda diagnostic: diagnostic.sort_key))
        super().__init__(report(self.diagnostics))

    def told(self) -> str:
        """The problems as a compiler tells them, each line beginning with its place."""
        return report(self.diagnostics, excerpts=True)


def report(diagnostics: Iterable[Diagnostic], *, excerpts: bool = False) -> str:
    """One line for each problem, with the line it is in when `excerpts`, and a last line that counts them."""
    found = tuple(diagnostics)
    lines: list[str] = []
    for diagnostic in found[:_MOST_SHOWN]:
        lines += [str(diagnostic), *(excerpt(diagnostic) if excerpts else ())]
    if len(found) > _MOST_SHOWN:
        lines.append(f"... and {len(found) - _MOST_SHOWN} more like these")
    return "\n".join([*lines, _count(found)])


def excerpt(diagnostic: Diagnostic) -> tuple[str, ...]:
    """The line of a problem and a caret below its place; nothing when it has no line that can be shown."""
    origin = diagnostic.origin
    if not 1 <= origin.line <= len(origin.source.lines):
        return ()
    line = origin.source.lines[origin.line - 1].replace("\t", " ")
    if not line.isprintable() or origin.column > _EXCERPT_WIDTH:
        return ()
    number = f"{origin.line:>5} | "
    return (number + line[:_EXCERPT_WIDTH], " " * (len(number) - 2) + "| " + " " * (origin.column - 1) + "^")


def _count(found: tuple[Diagnostic, ...]) -> str:
    errors = sum(diagnostic.severity == ERROR for diagnostic in found)
    warnings = len(found) - errors
    parts = [_plural(errors, "error")] if errors or not warnings else []
    if warnings:
        parts.append(_plural(warnings, "warning"))
    return ", ".join(parts)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
