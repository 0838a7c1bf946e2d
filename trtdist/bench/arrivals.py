"""When requests arrive in an open loop: points in time that do not depend on how fast the answers come."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

__all__ = ["constant", "poisson"]


def poisson(rate: float, random_numbers: random.Random) -> Iterator[float]:
    """Seconds from the start at which requests of a Poisson process of `rate` per second arrive, without end."""
    now = 0.0
    while True:
        now += random_numbers.expovariate(rate)
        yield now


def constant(rate: float) -> Iterator[float]:
    """Seconds from the start of requests in equal distances, the first at 0, without end."""
    return (number / rate for number in itertools.count())
