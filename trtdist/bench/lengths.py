"""How long prompts and answers are: distributions that are written as one word, such as `lognormal:512:256`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from trtdist.errors import InputError

__all__ = ["MAX_LENGTH", "Lengths"]

MAX_LENGTH = 1 << 20

_KINDS = {"fixed": 1, "uniform": 2, "normal": 2, "lognormal": 2}
_HELP = "write fixed:N, uniform:LEAST:MOST, normal:MEAN:DEVIATION or lognormal:MEAN:DEVIATION, in tokens"


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths in tokens; what is drawn is a whole number from 1 to MAX_LENGTH.

    `first` and `second` are N, the bounds (both included), or mean and standard deviation of the lengths themselves
    (also for `lognormal`, whose logarithms are normal).
    """

    kind: str
    first: float
    second: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """Read `fixed:128` (or just `128`), `uniform:64:256`, `normal:128:32`, `lognormal:128:64`. InputError."""
        kind, *words = text.split(":") if ":" in text else ("fixed", text)
        if len(words) != _KINDS.get(kind):
            raise InputError(f"the length {text!r} is not understood: {_HELP}")
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            raise InputError(f"the length {text!r} has something that is no number: {_HELP}") from None
        problem = _problem(kind, *numbers)
        if problem:
            raise InputError(f"the length {text!r} {problem}: {_HELP}")
        return cls(kind, *numbers)

    def drawer(self, random_numbers: random.Random) -> Callable[[], int]:
        """A function that draws one length at each call."""
        first, second = self.first, self.second
        if self.kind == "fixed":
            return lambda: int(first)
        if self.kind == "uniform":
            return lambda: random_numbers.randint(int(first), int(second))
        if self.kind == "normal":
            return lambda: _length(random_numbers.gauss(first, second))
        spread = math.log1p((second / first) ** 2)
        middle, deviation = math.log(first) - spread / 2, math.sqrt(spread)
        return lambda: _length(random_numbers.lognormvariate(middle, deviation))

    def __str__(self) -> str:
        return f"{self.kind}:{self.first:g}" + (f":{self.second:g}" if self.kind != "fixed" else "")


def _length(drawn: float) -> int:
    return round(min(max(drawn, 1.0), MAX_LENGTH))


def _problem(kind: str, first: float, second: float = 0.0) -> str:
    if not 1 <= first <= MAX_LENGTH:
        return f"is not from 1 to {MAX_LENGTH} tokens"
    if kind in ("fixed", "uniform") and (first % 1 or second % 1):
        return "must have whole numbers"
    if kind == "uniform" and not first <= second <= MAX_LENGTH:
        return "must have its bounds in ascending order"
    if not 0 <= second <= MAX_LENGTH:
        return f"must have a deviation from 0 to {MAX_LENGTH} tokens"
    return ""
