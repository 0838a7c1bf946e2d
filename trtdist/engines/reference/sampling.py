"""Which token comes next: on the leader alone, from logits that are the same on every rank."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trtdist.engines.base import RefusedError, Sampling
from trtdist.engines.reference.model import LOGIT_BITS
from trtdist.engines.reference.text import FIRST_WORD

if TYPE_CHECKING:
    from trtdist.engines.reference.arithmetic import Array

__all__ = ["chain", "check_sampling", "choose"]


def check_sampling(sampling: Sampling) -> None:
    """EngineError when no token can be chosen in this way."""
    if sampling.max_tokens < 1:
        raise RefusedError(f"max_tokens is {sampling.max_tokens}; ask for at least one token")
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise RefusedError(f"temperature is {sampling.temperature}; it must be 0 or more")
    if not 0 <= sampling.top_p <= 1:
        raise RefusedError(f"top_p is {sampling.top_p}; it must lie between 0 and 1")


def choose(logits: Array, sampling: Sampling, seed: int, index: int) -> int:
    """The token with number `index` of an answer.

    The random number follows from seed and index alone, so an answer goes on in the same way on another server.
    """
    if sampling.temperature == 0:
        return FIRST_WORD + int(logits.argmax())
    values: list[float] = logits.tolist()
    top = max(values)
    chances = [math.exp((value - top) / 2**LOGIT_BITS / sampling.temperature) for value in values]
    order = sorted(range(len(chances)), key=lambda word: (-chances[word], word))
    return FIRST_WORD + _drawn(chances, order, sampling.top_p, random.Random(f"{seed} {index}").random())


def _drawn(chances: Sequence[float], order: Sequence[int], top_p: float, draw: float) -> int:
    enough = top_p * sum(chances)
    sums: list[float] = []
    for word in order:
        sums.append((sums[-1] if sums else 0.0) + chances[word])
        if sums[-1] >= enough:
            break
    return next((word for word, reached in zip(order, sums) if draw * sums[-1] < reached), order[0])


def chain(before: str, logits: Array) -> str:
    """A digest over all logits that an answer was chosen from so far: equal only when all of them are, bit by bit."""
    return hashlib.blake2b(before.encode() + logits.tobytes(), digest_size=16).hexdigest()
