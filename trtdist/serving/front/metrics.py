"""What the front end counts, in Prometheus' text format; the sum over all its processes, which share the memory."""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["ENDPOINTS", "Metrics"]

ENDPOINTS = ("chat", "completions", "models", "other")
STATUSES = (200, 400, 401, 404, 405, 408, 413, 415, 429, 499, 500, 502, 503, 504, 0)
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_PREFIX = "trtdist_http"
_BYTES = 8


class Metrics:
    """One row of numbers for each process: made before they fork, `process` says whose row is written."""

    def __init__(self, processes: int = 1) -> None:
        self._names = [f"requests:{endpoint}:{status}" for endpoint in ENDPOINTS for status in STATUSES]
        self._names += ["in_flight", "prompt_tokens", "completion_tokens", "connections"]
        for name in ("first", "whole"):
            self._names += [f"{name}:{bound}" for bound in (*BOUNDS, "+Inf")] + [f"{name}:sum"]
        self._places = {name: place for place, name in enumerate(self._names)}
        self._memory = mmap.mmap(-1, processes * len(self._names) * _BYTES)
        self._cells = memoryview(self._memory).cast("d")
        self._row = 0

    def process(self, number: int) -> None:
        """Write into the row of this process from now on."""
        self._row = number * len(self._names)

    def add(self, name: str, value: float = 1.0) -> None:
        """Count: `in_flight`, `prompt_tokens` or `completion_tokens`."""
        self._cells[self._row + self._places[name]] += value

    def put(self, name: str, value: float) -> None:
        """Set a gauge: `connections`."""
        self._cells[self._row + self._places[name]] = value

    def answered(self, endpoint: str, status: int) -> None:
        """A request got this status; 499 when its client went away before."""
        self.add(f"requests:{endpoint}:{status if status in STATUSES else 0}")

    def took(self, name: str, seconds: float) -> None:
        """A time: `first` until the first token, `whole` until the last."""
        place = bisect_left(BOUNDS, seconds)
        self.add(f"{name}:{BOUNDS[place] if place < len(BOUNDS) else '+Inf'}")
        self.add(f"{name}:sum", seconds)

    def text(self) -> str:
        """What a scrape gets."""
        size = len(self._names)
        total = {name: sum(self._cells[place::size]) for name, place in self._places.items()}
        lines = [f"# HELP {_PREFIX}_requests_total Requests by status.", f"# TYPE {_PREFIX}_requests_total counter"]
        for endpoint in ENDPOINTS:
            for status in STATUSES:
                count = total[f"requests:{endpoint}:{status}"]
                if count:
                    labels = f'endpoint="{endpoint}",status="{status or "other"}"'
                    lines.append(f"{_PREFIX}_requests_total{{{labels}}} {count:.0f}")
        lines += _single("requests_in_flight", "gauge", "Requests being answered.", total["in_flight"])
        lines += _single("connections", "gauge", "Open connections.", total["connections"])
        lines += _single("prompt_tokens_total", "counter", "Tokens of prompts.", total["prompt_tokens"])
        lines += _single("completion_tokens_total", "counter", "Tokens generated.", total["completion_tokens"])
        for name, title, about in (
            ("first", "time_to_first_token_seconds", "From the request to its first token."),
            ("whole", "request_seconds", "From the request to its last token."),
        ):
            counts = [total[f"{name}:{bound}"] for bound in (*BOUNDS, "+Inf")]
            lines += _histogram(title, about, counts, total[f"{name}:sum"])
        return "\n".join(lines) + "\n"


def _single(name: str, kind: str, about: str, value: float) -> list[str]:
    full = f"{_PREFIX}_{name}"
    return [f"# HELP {full} {about}", f"# TYPE {full} {kind}", f"{full} {value:.0f}"]


def _histogram(name: str, about: str, counts: Sequence[float], total: float) -> list[str]:
    full = f"{_PREFIX}_{name}"
    lines = [f"# HELP {full} {about}", f"# TYPE {full} histogram"]
    below = 0.0
    for bound, count in zip((*BOUNDS, "+Inf"), counts):
        below += count
        lines.append(f'{full}_bucket{{le="{bound}"}} {below:.0f}')
    return [*lines, f"{full}_sum {total:.6f}", f"{full}_count {below:.0f}"]
