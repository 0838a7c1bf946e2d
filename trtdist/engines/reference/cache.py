"""The KV cache of one sequence on one rank, and the bytes that it travels as, head by head."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from trtdist.engines.reference.shape import HEAD_WIDTH, LAYERS

if TYPE_CHECKING:
    from trtdist.engines.reference.arithmetic import Array

__all__ = ["Cache", "digest"]

_WIRE = np.dtype("<i2")
_FIRST_CAPACITY = 64


class Cache:
    """Keys and values of `heads` heads: arrays of (layers, keys and values, heads, positions, head width)."""

    def __init__(self, heads: int) -> None:
        self.length = 0
        self._data = np.zeros((LAYERS, 2, heads, _FIRST_CAPACITY, HEAD_WIDTH))

    def grow(self, tokens: int) -> None:
        """Make room for more tokens, which `put` then fills layer by layer."""
        self.length += tokens
        capacity = self._data.shape[3]
        if self.length > capacity:
            more = max(self.length, 2 * capacity) - capacity
            self._data = np.pad(self._data, ((0, 0), (0, 0), (0, 0), (0, more), (0, 0)))

    def put(self, layer: int, key: Array, value: Array) -> tuple[Array, Array]:
        """Set the newest keys and values (heads, tokens, head width) of a layer; gives all of that layer."""
        keys, values = self._data[layer, :, :, : self.length]
        keys[:, -key.shape[1] :] = key
        values[:, -key.shape[1] :] = value
        return keys, values

    def piece(self, start: int, end: int) -> Array:
        """A copy of the keys and values of some positions, in the 16-bit integers that they travel as."""
        return self._data[:, :, :, start:end].astype(_WIRE)

    def append(self, piece: Array) -> None:
        """Add positions that `piece` gave."""
        tokens = piece.shape[3]
        self.grow(tokens)
        self._data[:, :, :, self.length - tokens : self.length] = piece

    def packed(self, heads: range) -> dict[int, bytes]:
        """The bytes of each head by its number: layers, keys before values, positions, little-endian 16-bit."""
        data = self._data[:, :, :, : self.length].astype(_WIRE)
        return {head: data[:, :, index].tobytes() for index, head in enumerate(heads)}

    @classmethod
    def unpacked(cls, packed: Mapping[int, bytes], tokens: int) -> Cache:
        """The cache of `tokens` positions that `packed` gave; the heads in the order of their numbers."""
        cache = cls(len(packed))
        cache.grow(tokens)
        for index, head in enumerate(sorted(packed)):
            data = np.frombuffer(packed[head], dtype=_WIRE)
            cache._data[:, :, index, :tokens] = data.reshape(LAYERS, 2, tokens, HEAD_WIDTH)
        return cache


def digest(data: bytes) -> str:
    """What tells that bytes arrived as they left."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
