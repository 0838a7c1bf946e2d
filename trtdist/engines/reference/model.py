"""A tiny decoder transformer with fixed weights, one tensor-parallel shard of it per rank.

Each rank has some heads and some hidden units. What it adds to a layer is a partial sum; `allreduce` adds those of all
ranks, then comes the rounding, so that a rank's share of the work cannot be seen in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtdist.engines.reference.arithmetic import NORM, WEIGHT_ONE, hashed, normalised, scaled, soft_weights
from trtdist.engines.reference.cache import Cache
from trtdist.engines.reference.shape import (
    HEAD_WIDTH,
    HIDDEN,
    LAYERS,
    POSITIONS,
    VOCABULARY,
    WIDTH,
    WORDS,
    heads_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trtdist.engines.reference.arithmetic import Array

__all__ = ["LOGIT_BITS", "Shard", "bounds"]

_WEIGHT_SPREAD = 2**5
_TOKEN_SPREAD = 2**8
_POSITION_SPREAD = 2**6
_RESIDUAL_LIMIT = 2**15
_ACTIVATION_LIMIT = 2**11
_PROJECTION_BITS = 7
_SCORE_BITS = 10
_DOWN_BITS = 8
_MASKED = -(2.0**40)

# So many scores are worked on at once: they stay in the processor's cache, which is twice as fast.
_BLOCK = 2**15

# How much each head prefers what is near, in steps of score per position; four heads see everything alike.
_SLOPES = np.array([0, 0, 0, 0, 1, 2, 4, 16], dtype=np.float64)

# A logit of 2^LOGIT_BITS is 1 to the sampler.
LOGIT_BITS = 13

# Streams of `hashed`; a layer has those from _FIRST_LAYER + 4 * its number on.
_TOKENS, _PLACES, _HEAD, _FIRST_LAYER = 0, 1, 2, 3


def bounds() -> dict[str, int]:
    """The largest value that each kind of sum can take, whatever the input; all must stay below 2^53."""
    projected = WIDTH * NORM * _WEIGHT_SPREAD
    kept = projected >> _PROJECTION_BITS
    return {
        "sum of squares": WIDTH * _RESIDUAL_LIMIT**2,
        "projection": projected,
        "score": (HEAD_WIDTH * kept**2) + int(_SLOPES.max()) * POSITIONS,
        "sum of weights": POSITIONS * WEIGHT_ONE,
        "weighted values": POSITIONS * WEIGHT_ONE * kept,
        "attention output": WIDTH * kept * _WEIGHT_SPREAD,
        "hidden output": HIDDEN * _ACTIVATION_LIMIT * _WEIGHT_SPREAD,
        "residual": 2 * _RESIDUAL_LIMIT + (HIDDEN * _ACTIVATION_LIMIT * _WEIGHT_SPREAD >> _DOWN_BITS),
        "key or value": kept,
    }


@dataclass(frozen=True)
class _Layer:
    query_key_value: Array
    output: Array
    up: Array
    down: Array


class Shard:
    """The share of one rank: the heads of `heads_of(rank, tp)`.

    `allreduce` adds an array of float64 up over all ranks, in place.
    """

    def __init__(self, tp: int, rank: int, allreduce: Callable[[Array], None]) -> None:
        self.heads = heads_of(rank, tp)
        self._allreduce = allreduce
        self._tokens = _matrix(_TOKENS, VOCABULARY, WIDTH, _TOKEN_SPREAD)
        self._head = _matrix(_HEAD, WIDTH, WORDS)
        self._slopes = _SLOPES[self.heads.start : self.heads.stop, None, None]
        self._layers = [_layer(number, tp, rank) for number in range(LAYERS)]

    def forward(self, cache: Cache, tokens: Sequence[int]) -> Array:
        """Read tokens after those in the cache; the logits after the last one, an array of WORDS."""
        start = cache.length
        places = np.arange(start, start + len(tokens))
        cache.grow(len(tokens))
        row = self._tokens[list(tokens)] + hashed(_PLACES, places, WIDTH, _POSITION_SPREAD)
        for number, layer in enumerate(self._layers):
            row = self._added(row, self._attended(number, layer, cache, normalised(row), places), _PROJECTION_BITS)
            hidden = np.clip(scaled(normalised(row) @ layer.up, _PROJECTION_BITS), 0, _ACTIVATION_LIMIT)
            row = self._added(row, hidden @ layer.down, _DOWN_BITS)
        logits: Array = (normalised(row[-1:]) @ self._head)[0]
        return logits

    def _added(self, row: Array, part: Array, bits: int) -> Array:
        self._allreduce(part)
        return np.clip(row + scaled(part, bits), -_RESIDUAL_LIMIT, _RESIDUAL_LIMIT)

    def _attended(self, number: int, layer: _Layer, cache: Cache, row: Array, places: NDArray[np.int64]) -> Array:
        projected = scaled(row @ layer.query_key_value, _PROJECTION_BITS)
        query, key, value = projected.reshape(len(row), 3, len(self.heads), HEAD_WIDTH).transpose(1, 2, 0, 3)
        keys, values = cache.put(number, key, value)
        mixed = np.empty_like(query)
        rows = max(1, _BLOCK // (len(self.heads) * cache.length))
        for first in range(0, len(row), rows):
            some = slice(first, first + rows)
            seen = int(places[some][-1]) + 1
            mixed[:, some] = self._mixed(query[:, some], keys[:, :seen], values[:, :seen], places[some])
        result: Array = mixed.transpose(1, 0, 2).reshape(len(row), -1) @ layer.output
        return result

    def _mixed(self, query: Array, keys: Array, values: Array, places: NDArray[np.int64]) -> Array:
        """The values of each head, weighted by how well their keys match the queries at `places`."""
        distance = np.arange(keys.shape[1], dtype=np.float64) - places[:, None]
        scores = scaled(query @ keys.transpose(0, 2, 1), _SCORE_BITS) + self._slopes * distance
        if len(places) > 1:
            scores[:, distance > 0] = _MASKED
        weights = soft_weights(scores)
        result: Array = np.rint((weights @ values) / weights.sum(axis=-1, keepdims=True))
        return result


def _matrix(stream: int, rows: int, columns: int, spread: int = _WEIGHT_SPREAD) -> Array:
    return hashed(stream, np.arange(rows), columns, spread)


def _layer(number: int, tp: int, rank: int) -> _Layer:
    first = _FIRST_LAYER + 4 * number
    width, hidden = WIDTH // tp, HIDDEN // tp
    mine, units = slice(rank * width, (rank + 1) * width), slice(rank * hidden, (rank + 1) * hidden)
    projections = _matrix(first, WIDTH, 3 * WIDTH).reshape(WIDTH, 3, WIDTH)
    return _Layer(
        query_key_value=np.ascontiguousarray(projections[:, :, mine]).reshape(WIDTH, 3 * width),
        output=_matrix(first + 1, WIDTH, WIDTH)[mine],
        up=np.ascontiguousarray(_matrix(first + 2, WIDTH, HIDDEN)[:, units]),
        down=_matrix(first + 3, HIDDEN, WIDTH)[units],
    )
