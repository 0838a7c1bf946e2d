"""An import as the text of a topology file, with a comment for everything that was not carried over."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import yaml

from trtdist.topology.importers.draft import CHANGED, LOST, Imported, Remark

__all__ = ["topology_text"]

_WIDTH = 118
_HEADINGS = {
    LOST: "Not carried over:",
    CHANGED: "Written in another way:",
}


def topology_text(imported: Imported, names: Sequence[str]) -> str:
    """The file: where it comes from, what is not in it, and the topology."""
    lines = [_comment(f"From {', '.join(names)} ({imported.format}).")]
    for kind, heading in _HEADINGS.items():
        remarks = imported.of_kind(kind)
        if remarks:
            lines += ["#", f"# {heading}", *(_remark(remark) for remark in remarks)]
    return "\n".join(lines) + "\n\n" + _yaml(imported.topology)


def _remark(remark: Remark) -> str:
    return _comment(f"- {remark}", hanging="  ")


def _comment(text: str, hanging: str = "") -> str:
    """A text as comment lines, whatever characters it holds."""
    shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return textwrap.fill(
        shown, _WIDTH, initial_indent="# ", subsequent_indent=f"# {hanging}", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _yaml(topology: dict[str, Any]) -> str:
    parts = [
        yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=math.inf)
        for key, value in topology.items()
    ]
    return "".join(parts)
