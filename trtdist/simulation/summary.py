"""Lives many scenes and sums up what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trtdist.simulation.facts import Scene
from trtdist.simulation.life import Decide, Life, live
from trtdist.supervisor import machine

__all__ = ["Summary", "live_all", "trace"]


@dataclass(frozen=True)
class Summary:
    """What became of many lives: `ended` counts them by the state of their verdicts, `broken` are those in which an
    invariant does not hold. `hours` are of virtual time, `event_cost` is seconds of a decision on average."""

    lives: int
    events: int
    hours: float
    ready: int
    ended: dict[str, int]
    event_cost: float
    broken: tuple[Life, ...]


def live_all(scenes: Iterable[Scene], clock: Callable[[], float], decide: Decide = machine.advance) -> Summary:
    """Live scenes one after the other; `clock` is read to measure the decisions."""
    ended: Counter[str] = Counter()
    broken: list[Life] = []
    events = ready = 0
    seconds = cost = 0.0
    for scene in scenes:
        life = live(scene, decide, clock)
        ended[life.state or "none"] += 1
        events += life.events
        ready += life.was_ready
        seconds += life.seconds
        cost += life.cost
        broken += [life] if life.broken else []
    return Summary(
        ended.total(), events, seconds / 3600, ready, dict(ended.most_common()), cost / max(1, events), tuple(broken)
    )


def trace(scene: Scene, decide: Decide = machine.advance) -> tuple[Life, list[str]]:
    """Live a scene and keep what was heard ("<-"), said ("->") and done to the cluster ("!!"), a line each."""
    lines: list[str] = []
    life = live(scene, decide, note=lambda now, way, what: lines.append(f"{now:9.3f} {way} {what}"))
    return life, lines
