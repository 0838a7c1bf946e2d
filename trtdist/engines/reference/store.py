"""The KV caches that a context rank keeps until a generation server has fetched them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["KEEP_S", "Store"]

# A KV cache that nobody fetches is dropped after so many seconds.
KEEP_S = 120.0


@dataclass
class _Kept:
    heads: Mapping[int, bytes]
    until: float
    fetched: set[int] = field(default_factory=set)


class Store:
    """KV caches by context request id, each in bytes per head. All methods may be called from any thread."""

    def __init__(self, seconds: float = KEEP_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[int, _Kept] = {}

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)

    def keep(self, number: int, heads: Mapping[int, bytes]) -> None:
        """Keep the heads of this rank."""
        with self._lock:
            self._kept[number] = _Kept(heads, self._clock() + self._seconds)

    def get(self, number: int, heads: Sequence[int]) -> dict[int, bytes] | None:
        """Some heads of a kept cache; None when it is not there, or not these heads of it."""
        with self._lock:
            kept = self._kept.get(number)
            if kept is None or not set(heads) <= set(kept.heads):
                return None
            return {head: kept.heads[head] for head in heads}

    def sent(self, number: int, heads: Sequence[int]) -> None:
        """These heads have left; when all of this rank's have, the cache is dropped."""
        with self._lock:
            kept = self._kept.get(number)
            if kept is not None:
                kept.fetched.update(heads)
                if kept.fetched >= set(kept.heads):
                    del self._kept[number]

    def release(self, number: int) -> None:
        """Drop a cache, if it is there."""
        with self._lock:
            self._kept.pop(number, None)

    def expire(self) -> None:
        """Drop what has been kept too long."""
        with self._lock:
            now = self._clock()
            self._kept = {number: kept for number, kept in self._kept.items() if kept.until > now}
