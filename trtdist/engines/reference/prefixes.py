"""The keys and values of prompts that were read before, in blocks, for prompts that begin alike."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trtdist.engines.reference.cache import Cache

if TYPE_CHECKING:
    from trtdist.engines.reference.arithmetic import Array

__all__ = ["BLOCK", "BLOCKS", "Prefixes"]

# Tokens of a block, and how many blocks are held: 32 MiB of 16-bit values, shared by the ranks of a server.
BLOCK, BLOCKS = 128, 512


class Prefixes:
    """Blocks of a rank's own heads, each under a digest of all tokens up to its end; the longest unused go first.

    All ranks of a server do the same in the same order, so that they hold the same blocks at any step.
    """

    def __init__(self, most: int = BLOCKS) -> None:
        self._most = most
        self._blocks: OrderedDict[bytes, Array] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def held(self, tokens: Sequence[int]) -> int:
        """How many of the tokens, from the first on, need not be read; always less than all, since one gives logits."""
        count = 0
        for digest in _digests(tokens[:-1]):
            if digest not in self._blocks:
                break
            count += BLOCK
        return count

    def load(self, tokens: Sequence[int], heads: int) -> Cache:
        """The cache of tokens that are all held."""
        cache = Cache(heads)
        for digest in _digests(tokens):
            cache.append(self._blocks[digest])
        self._use(tokens)
        return cache

    def keep(self, tokens: Sequence[int], cache: Cache) -> None:
        """Hold the whole blocks of a prompt that is in a cache."""
        for number, digest in enumerate(_digests(tokens)):
            if digest not in self._blocks:
                self._blocks[digest] = cache.piece(number * BLOCK, (number + 1) * BLOCK)
        self._use(tokens)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)

    def _use(self, tokens: Sequence[int]) -> None:
        # From the back: without the blocks before it, a block is no use, so it goes before them.
        for digest in reversed(_digests(tokens)):
            self._blocks.move_to_end(digest)


def _digests(tokens: Sequence[int]) -> list[bytes]:
    found = []
    before = b""
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        block = array("q", tokens[end - BLOCK : end]).tobytes()
        before = hashlib.blake2b(block, digest_size=16, key=before).digest()
        found.append(before)
    return found
