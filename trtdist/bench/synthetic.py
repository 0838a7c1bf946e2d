"""Traces that are made up: conversations that share a beginning and grow with every turn."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from trtdist.bench import arrivals
from trtdist.bench.trace import BLOCK_TOKENS, TraceLine

__all__ = ["Conversations"]


@dataclass(frozen=True)
class Conversations:
    """Conversations as assistants have them.

    Each begins with one of `prefixes` instructions of `prefix_blocks` blocks and goes on for `turns` requests, each of
    which has the whole conversation so far and `turn_blocks` new blocks. `rate` requests per second arrive, of
    conversations that take turns at random; `open` of them are going on at any time.
    """

    requests: int = 2000
    prefixes: int = 8
    prefix_blocks: int = 4
    turns: int = 8
    turn_blocks: int = 2
    open: int = 64
    rate: float = 8.0
    output_tokens: int = 128

    def trace(self, seed: int) -> list[TraceLine]:
        """The trace, the same for the same seed."""
        choose = random.Random(f"conversations {seed}")
        ids = itertools.count(self.prefixes * self.prefix_blocks)
        talks = [self._begin(choose) for _ in range(self.open)]
        lines = []
        times = arrivals.poisson(self.rate, random.Random(f"arrivals {seed}"))
        for at in itertools.islice(times, self.requests):
            place = choose.randrange(self.open)
            talks[place] += tuple(itertools.islice(ids, self.turn_blocks))
            blocks = talks[place]
            lines.append(TraceLine(round(1000 * at, 3), len(blocks) * BLOCK_TOKENS, self.output_tokens, blocks))
            if len(blocks) >= self.prefix_blocks + self.turns * self.turn_blocks:
                talks[place] = self._begin(choose)
        return lines

    def _begin(self, choose: random.Random) -> tuple[int, ...]:
        first = choose.randrange(self.prefixes) * self.prefix_blocks
        return tuple(range(first, first + self.prefix_blocks))
