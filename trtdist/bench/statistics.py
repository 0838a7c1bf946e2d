"""Figures from samples: percentiles and summaries; nothing here knows where the samples come from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Summary", "percentile", "summary"]


@dataclass(frozen=True)
class Summary:
    """What is told of many samples, in their unit; all figures are 0 when `count` is."""

    count: int = 0
    mean: float = 0.0
    min: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the ascending samples lie, interpolated between neighbours.

    This is the definition that numpy and spreadsheets use by default (R-7). ValueError without samples.
    """
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    place = (len(ordered) - 1) * percent / 100.0
    below = min(max(math.floor(place), 0), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    low, high = ordered[below], ordered[above]
    # Clamped, because rounding may leave the interval by one bit.
    return min(max(low + (high - low) * (place - below), low), high)


def summary(samples: Iterable[float]) -> Summary:
    """The summary of samples in any order."""
    ordered = sorted(samples)
    if not ordered:
        return Summary()
    p50, p90, p95, p99 = (percentile(ordered, percent) for percent in (50, 90, 95, 99))
    mean = min(max(math.fsum(ordered) / len(ordered), ordered[0]), ordered[-1])
    return Summary(len(ordered), mean, ordered[0], p50, p90, p95, p99, ordered[-1])
