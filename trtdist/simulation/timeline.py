"""Virtual time: what will happen, in the order of its time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

__all__ = ["Timeline"]


class Timeline:
    """Things to do at times; `now` is the time of the last one that was done. What is due at the same time is done in
    the order in which it was put down."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, delay: float, do: Callable[[], None]) -> None:
        """Do something after a delay, or never when that is infinite."""
        if delay != float("inf"):
            heapq.heappush(self._heap, (self.now + max(0.0, delay), next(self._order), do))

    def next(self) -> float:
        """When the next thing is due; infinite when there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def step(self) -> None:
        """Do the next thing."""
        self.now, _, do = heapq.heappop(self._heap)
        do()
