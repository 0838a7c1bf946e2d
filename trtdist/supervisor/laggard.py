"""How far each rank has come by its log, and which one kept a run from being ready although nothing died.

Ranks that load together wait for whoever is missing, and TensorRT-LLM sets no limit to that. How far each got is told
by lines that every rank writes in this order; the time of its last line would not do, since a rank that is done early
waits in silence. Standard library, Python 3.9.

Sources (github.com/NVIDIA/TensorRT-LLM): `tensorrt_llm/_torch/pyexecutor/model_engine.py` and `_torch/models` for the
lines on weights, `cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp` for the KV cache.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trtdist.plan import Plan
from trtdist.rundir import RunDir

__all__ = ["Laggard", "how_far", "laggard"]

_STEPS = tuple(
    re.compile(pattern.encode())
    for pattern in (
        r"takes device \d+|follows its leader|MPI size: \d+|Rank \d+ is using GPU \d+",
        r"Loading (?:safetensors )?weights",
        r"Use [\d.]+ GB for model weights",
        r"Model init total",
        r"Allocated [\d.]+ GiB for max tokens in paged KV cache",
    )
)
# Of the worker itself, in the log of its leader: no single rank is behind any more.
_LOADED = b"Engine loaded and ready to serve"
_HEAD_BYTES, _MOST_RANKS = 4 << 20, 256


@dataclass(frozen=True)
class Laggard:
    """A rank (`ctx.0.1`), or a server whose ranks are all as far; `log` is the name of the log that tells of it."""

    name: str
    log: str


def laggard(run: RunDir, plan: Plan, servers: Sequence[str]) -> Laggard | None:
    """Who is behind of these servers; None when that is nobody, or more than one of them equally."""
    places = [(one.name, rank) for one in plan.servers if one.name in servers for rank in range(len(one.ranks))]
    progress = {(name, rank): how_far(_text(run, f"{name}.{rank}")) for name, rank in places[:_MOST_RANKS]}
    last = [place for place, steps in progress.items() if steps == min(progress.values())]
    if len({name for name, _ in last}) != 1:
        return None
    name, rank = last[0]
    leader = f"{name}.0"
    if _LOADED in _text(run, leader):
        return Laggard(name, leader)
    return Laggard(f"{name}.{rank}" if len(last) == 1 else name, f"{name}.{rank}")


def _text(run: RunDir, name: str) -> bytes:
    try:
        with open(run.log(name), "rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""


def how_far(text: bytes) -> int:
    """How many of the steps a log shows, counted to the last of them; -1 for one without a word."""
    if not text.strip():
        return -1
    return max((number for number, step in enumerate(_STEPS, 1) if step.search(text)), default=0)
