"""Two results side by side: what changed for each load that both have, and whether it got better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trtdist.bench.figures import Figures
from trtdist.bench.result import Point, Result
from trtdist.errors import InputError

__all__ = ["Change", "compare", "text"]

_Figure = Callable[[Figures], float]
# The figure, and whether more of it is better.
_FIGURES: dict[str, tuple[_Figure, bool]] = {
    "ttft_p50_ms": (lambda found: found.latencies.ttft.p50, False),
    "ttft_p99_ms": (lambda found: found.latencies.ttft.p99, False),
    "itl_p50_ms": (lambda found: found.latencies.itl.p50, False),
    "itl_p99_ms": (lambda found: found.latencies.itl.p99, False),
    "e2e_p50_ms": (lambda found: found.latencies.e2e.p50, False),
    "e2e_p99_ms": (lambda found: found.latencies.e2e.p99, False),
    "requests_per_s": (lambda found: found.requests_per_s, True),
    "tokens_per_s": (lambda found: found.tokens_per_s, True),
    "gpu_tokens_per_s": (lambda found: found.gpu_tokens_per_s, True),
    "goodput": (lambda found: found.goodput, True),
}


@dataclass(frozen=True)
class Change:
    """One figure under one load in both results; `ratio` is after over before, None where before is 0."""

    load: str
    value: float
    figure: str
    before: float
    after: float
    more_is_better: bool

    @property
    def ratio(self) -> float | None:
        """After over before."""
        return self.after / self.before if self.before else None

    def verdict(self, tolerance: float) -> str:
        """`better` or `worse` where the change is larger than `tolerance` (a share of before), else `same`."""
        if self.before == self.after:
            return "same"
        if abs(self.after - self.before) <= tolerance * abs(self.before):
            return "same"
        return "better" if (self.after > self.before) == self.more_is_better else "worse"


def compare(before: Result, after: Result) -> list[Change]:
    """All figures for each load that both results have; InputError when there is none."""
    later = {(point.load, point.value): point for point in after.points}
    pairs = [(point, later[key]) for point in before.points if (key := (point.load, point.value)) in later]
    if not pairs:
        raise InputError(f"{before.name} and {after.name} have no load in common: measure both under the same")
    return [change for pair in pairs for change in _changes(*pair)]


def text(changes: list[Change], tolerance: float) -> str:
    """A table as plain text."""
    lines = [f"{'load':<18}{'figure':<20}{'before':>12}{'after':>12}{'ratio':>8}  verdict"]
    for one in changes:
        ratio = "-" if one.ratio is None else f"{one.ratio:.2f}"
        load = f"{one.load} {one.value:g}"
        figures = f"{one.before:>12.2f}{one.after:>12.2f}{ratio:>8}"
        lines.append(f"{load:<18}{one.figure:<20}{figures}  {one.verdict(tolerance)}")
    return "\n".join(lines)


def _changes(before: Point, after: Point) -> list[Change]:
    return [
        Change(before.load, before.value, name, figure(before.figures), figure(after.figures), more)
        for name, (figure, more) in _FIGURES.items()
    ]
