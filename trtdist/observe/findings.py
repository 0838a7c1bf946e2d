"""What an examination finds, and how it is told: worst first, each with its remedy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trtdist.slurm.hostlist import fold

__all__ = ["CODES", "JSON_VERSION", "Finding", "exit_code", "ordered", "split", "table", "to_json"]

JSON_VERSION = 1
Level = Literal["error", "warning", "ok"]

_FAILED, _INPUT, _MISSING = 1, 2, 4
_LEVELS: tuple[Level, ...] = ("error", "warning", "ok")

CODES = {
    "slurm": _MISSING,
    "nodes": _INPUT,
    "node.answer": _FAILED,
    "python": _MISSING,
    "image": _INPUT,
    "image.architecture": _INPUT,
    "image.differs": _INPUT,
    "image.python": _INPUT,
    "image.mpi": _INPUT,
    "runtime": _MISSING,
    "runtime.hook": _MISSING,
    "mount": _INPUT,
    "mpi.types": _MISSING,
    "mpi.hello": _MISSING,
    "runs": _INPUT,
    "runs.seen": _INPUT,
    "space": _FAILED,
    "network.address": _INPUT,
    "network.reach": _FAILED,
    "network.names": _FAILED,
    "clock": _FAILED,
    "gpu": _MISSING,
    "gpu.memory": _FAILED,
    "shm": _FAILED,
    "limits": _FAILED,
    "environment": _FAILED,
    "services": _MISSING,
    "services.etcd": _FAILED,
}
"""What is looked at, by the code of its findings, with the exit code when it is an error."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `node` is "" for what concerns no single node, `remedy` is "" for what is well."""

    level: Level
    code: str
    node: str
    what: str
    remedy: str = ""

    @property
    def exit_code(self) -> int:
        """That of the command when this is the worst."""
        return CODES[self.code] if self.level == "error" else 0


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, in the order of the codes."""
    codes = list(CODES)
    return sorted(findings, key=lambda found: (_LEVELS.index(found.level), codes.index(found.code)))


def exit_code(findings: Iterable[Finding]) -> int:
    """0 when there is nothing worse than warnings; 4 when something is missing, else 2 for wrong input, else 1."""
    return max((found.exit_code for found in findings), default=0)


def split(sentence: str) -> tuple[str, str]:
    """What is wrong and the remedy, of a sentence that has both."""
    for mark in (": ", "; "):
        what, _, remedy = sentence.rpartition(mark)
        if what:
            return what, remedy
    return sentence, ""


def to_json(findings: Sequence[Finding], nodes: Sequence[str]) -> dict[str, Any]:
    """The object that `doctor --json` prints."""
    return {
        "version": JSON_VERSION,
        "exit_code": exit_code(findings),
        "nodes": list(nodes),
        "findings": [asdict(found) for found in ordered(findings)],
    }


def table(findings: Sequence[Finding]) -> str:
    """A line for each finding, nodes that share one folded into it, and the remedy below."""
    rows = list(_rows(ordered(findings)))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = []
    for level, code, where, what, remedy in rows:
        cells = [cell.ljust(width) for cell, width in zip((level, code, where), widths, strict=True)]
        lines.append("  ".join([*cells, what]))
        if remedy:
            lines.append(" " * (sum(widths) + 6) + f"-> {remedy}")
    return "\n".join(lines)


def _rows(findings: Sequence[Finding]) -> Iterator[tuple[str, str, str, str, str]]:
    nodes: dict[tuple[str, str, str, str], list[str]] = {}
    for found in findings:
        key = (found.level, found.code, found.what, found.remedy)
        nodes.setdefault(key, []).extend([found.node] if found.node else [])
    for (level, code, what, remedy), names in nodes.items():
        yield level, code, fold(names) if names else "-", what, remedy
