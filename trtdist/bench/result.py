"""The result of measurements as a file: one JSON object, described in docs/bench.md."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trtdist.bench.figures import Figures, Latencies
from trtdist.bench.meter import ClientUse
from trtdist.bench.record import Slo
from trtdist.bench.statistics import Summary
from trtdist.errors import InputError
from trtdist.rundir import write_atomic

__all__ = ["VERSION", "Point", "Result", "from_json", "read", "to_json", "write"]

VERSION = 1
KIND = "trtdist-bench"

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """One load and what came of it.

    `load` is `concurrency` (open requests), `rate` (requests per second) or `trace` (times as fast), `value` how much.
    """

    load: str
    value: float
    figures: Figures
    client: ClientUse


@dataclass(frozen=True)
class Result:
    """One or several points against one target; `when` is seconds since the epoch, `setup` the options as given."""

    name: str
    target: str
    gpus: int
    when: float
    slo: Slo
    points: tuple[Point, ...]
    setup: dict[str, Any] = field(default_factory=dict)


def to_json(result: Result) -> str:
    """The result as JSON text."""
    body = {"kind": KIND, "version": VERSION, **dataclasses.asdict(result)}
    return json.dumps(body, ensure_ascii=False, indent=1) + "\n"


def from_json(text: str) -> Result:
    """The result in a JSON text, whose unknown keys are ignored; ValueError says what is wrong."""
    raw = json.loads(text)
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        raise ValueError("it is no result of trtdist bench")
    if raw.get("version") != VERSION:
        raise ValueError(f"its version is {raw.get('version')!r}, and this trtdist reads {VERSION}")
    try:
        made = {**raw, "slo": _made(Slo, raw["slo"]), "points": tuple(_point(one) for one in raw["points"])}
        return _made(Result, made)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not complete ({error})") from None


def write(result: Result, path: Path) -> None:
    """Write a result, complete or not at all."""
    write_atomic(path, to_json(result), 0o644)


def read(path: Path) -> Result:
    """Read a result; InputError names the file and what is wrong with it."""
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from None


def _point(raw: dict[str, Any]) -> Point:
    found = raw["figures"]
    summaries = {name: _made(Summary, value) for name, value in found["latencies"].items()}
    figures = _made(Figures, {**found, "latencies": _made(Latencies, summaries)})
    return _made(Point, {**raw, "figures": figures, "client": _made(ClientUse, raw["client"])})


def _made(kind: type[T], raw: dict[str, Any]) -> T:
    names = {one.name for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in raw.items() if name in names})
