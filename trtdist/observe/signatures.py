"""What lines in logs mean: the signatures of `signatures.yaml`, and how a line is held against them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

__all__ = ["KINDS", "PlainLine", "Signature", "Signatures", "known", "plain"]

# From the most telling to the least; a harmless line is nothing else, so that comes before all.
KINDS = ("harmless", "cause", "follows", "suspect", "error")

_DATA = Path(__file__).with_name("signatures.yaml")
# ECMA-48: colours and other control sequences.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_LABEL = re.compile(r"\s*(\d+): ")


@dataclass(frozen=True)
class Signature:
    """One entry of the data file, whose head says what each field means."""

    code: str
    kind: str
    literal: tuple[str, ...]
    pattern: re.Pattern[str]
    meaning: str
    remedy: str
    source: str
    example: str
    near_miss: str


@dataclass(frozen=True)
class PlainLine:
    """A line without colours; `task` is the number that `srun --label` put before it, None without one."""

    text: str
    task: int | None


class Signatures:
    """A set of signatures, made ready to be searched for."""

    def __init__(self, signatures: Sequence[Signature]) -> None:
        self.all = tuple(sorted(signatures, key=lambda each: KINDS.index(each.kind)))
        self.literals = tuple(sorted({word.encode() for each in self.all for word in each.literal}))
        self._by_code = {each.code: each for each in self.all}

    def __getitem__(self, code: str) -> Signature:
        return self._by_code[code]

    def __contains__(self, code: object) -> bool:
        return code in self._by_code

    def match(self, text: str) -> Signature | None:
        """The most telling signature of a plain line; None for no meaning, and for a harmless one."""
        for each in self.all:
            if any(word in text for word in each.literal) and each.pattern.search(text):
                return None if each.kind == "harmless" else each
        return None


def plain(line: str) -> PlainLine:
    """A line of a log without control sequences and without the label of `srun --label`."""
    text = _CONTROL.sub("", line)
    label = _LABEL.match(text)
    if label is None:
        return PlainLine(text, None)
    return PlainLine(text[label.end() :], int(label[1]))


@cache
def known() -> Signatures:
    """The signatures that trtdist ships with."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return Signatures([_signature(entry) for entry in yaml.load(_DATA.read_text(encoding="utf-8"), loader)])


def _signature(entry: dict[str, Any]) -> Signature:
    return Signature(**{**entry, "literal": tuple(entry["literal"]), "pattern": re.compile(entry["pattern"])})
