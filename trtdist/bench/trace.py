"""Recorded workloads in the format that Mooncake's traces have: one JSON object per line.

    {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 2353]}

`timestamp` is in milliseconds from the start, the lengths are tokens, and `hash_ids` name the prompt's blocks of 512
tokens, where two prompts with the same ids in front share that prefix.
Source: Mooncake, "A KVCache-centric Disaggregated Architecture for LLM Serving", `FAST25-release/traces`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtdist.bench.lengths import MAX_LENGTH
from trtdist.errors import InputError

__all__ = ["BLOCK_TOKENS", "TraceLine", "format_trace", "parse_trace", "read_trace"]

BLOCK_TOKENS = 512
MAX_HASH_ID = 2**63


@dataclass(frozen=True)
class TraceLine:
    """One request: when it came (ms from the start), tokens in and out, and the ids of its prompt's blocks."""

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


def read_trace(path: Path) -> list[TraceLine]:
    """The requests of a trace file, in the order of their time. InputError names the line that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise InputError(f"cannot read the trace {path}: {reason}") from error
    found = parse_trace(text.splitlines(), str(path))
    if not found:
        raise InputError(f"the trace {path} has no request")
    return found


def parse_trace(lines: Iterable[str], name: str = "trace") -> list[TraceLine]:
    """The requests of a trace, in the order of their time; empty lines are skipped. InputError."""
    found = [_line(line, f"{name}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    return sorted(found, key=lambda line: line.timestamp)


def format_trace(lines: Iterable[TraceLine]) -> str:
    """The text of a trace file."""
    return "".join(json.dumps({**vars(line), "hash_ids": list(line.hash_ids)}) + "\n" for line in lines)


def _line(text: str, place: str) -> TraceLine:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{place}: this is no JSON object") from None
    if not isinstance(raw, dict):
        raise InputError(f"{place}: this is no JSON object")
    timestamp = raw.get("timestamp", 0)
    if isinstance(timestamp, bool) or not isinstance(timestamp, (int, float)) or not 0 <= timestamp < 1e15:
        raise InputError(f"{place}: timestamp must be milliseconds from the start, from 0 on")
    prompt, answer = _length(raw, "input_length", place), _length(raw, "output_length", place)
    return TraceLine(float(timestamp), prompt, answer, _hash_ids(raw.get("hash_ids", []), place))


def _length(raw: dict[str, Any], name: str, place: str) -> int:
    value = raw.get(name)
    if type(value) is not int or not 1 <= value <= MAX_LENGTH:
        raise InputError(f"{place}: {name} must be a whole number of tokens from 1 to {MAX_LENGTH}")
    return value


def _hash_ids(value: object, place: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(one) is int and 0 <= one < MAX_HASH_ID for one in value):
        raise InputError(f"{place}: hash_ids must be a list of whole numbers from 0 on")
    return tuple(value)
