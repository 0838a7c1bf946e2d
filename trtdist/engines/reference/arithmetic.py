"""Exact arithmetic: integers of a fixed-point grid, held in float64.

Products and sums of such numbers are exact as long as no partial sum reaches 2^53, so a matrix product gives the same
bits whatever order, thread or rank adds it up. What is not a sum of products (the functions below) works on one number
at a time, or on one row, by IEEE operations that are rounded correctly (`* / sqrt rint`), and ends on the grid again.
`exp` and its kind are not used: libraries round them differently, even between the ends and the middle of one array.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["EXACT", "NORM", "STEPS_PER_HALVING", "WEIGHT_ONE", "hashed", "normalised", "scaled", "soft_weights"]

# Integers below this are exact in float64.
EXACT = 2**53

# The length that `normalised` gives to each row.
NORM = 2**10

# A score lower by this much halves the weight; equal scores weigh WEIGHT_ONE.
STEPS_PER_HALVING = 16
WEIGHT_ONE = 2**16


def hashed(stream: int, rows: NDArray[np.int64], columns: int, spread: int) -> Array:
    """Fixed pseudo-random integers in [-spread, spread), `columns` for each of `rows`; spread is a power of two.

    The finaliser of SplitMix64 (Steele, Lea, Flood, 2014) over (stream, row, column): the same in every release of
    numpy, which its own generators do not promise.
    """
    row = rows.astype(np.uint64)[:, None] * np.uint64(columns)
    bits = (row + np.arange(columns, dtype=np.uint64) + np.uint64((stream + 1) << 40)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Array = (bits >> np.uint64(40) & np.uint64(2 * spread - 1)).astype(np.float64) - spread
    return result


def scaled(values: Array, bits: int) -> Array:
    """Divided by 2^bits and rounded to the grid, halves to even."""
    result: Array = np.rint(values * 2.0**-bits)
    return result


def normalised(values: Array) -> Array:
    """Each row (last axis) scaled to the length NORM, rounded to the grid; no number exceeds NORM."""
    squares = np.maximum((values * values).sum(axis=-1, keepdims=True), 1.0)
    result: Array = np.rint(values * (NORM / np.sqrt(squares)))
    return result


def soft_weights(scores: Array) -> Array:
    """The weights of a softmax to base 2 over the last axis, as integers up to WEIGHT_ONE; far scores weigh 0."""
    below = scores.max(axis=-1, keepdims=True) - scores
    np.minimum(below, len(_HALVINGS) - 1, out=below)
    # Clipping changes nothing here; without it numpy checks each index and copies the result.
    weights: Array = np.take(_HALVINGS, below.astype(np.intp), out=below, mode="clip")
    return weights


def _halvings() -> Array:
    """WEIGHT_ONE / 2^(n / STEPS_PER_HALVING) for n = 0, 1, ... down to 0, in integer arithmetic."""
    one = 1 << 60
    step = one >> 1
    for _ in range(STEPS_PER_HALVING.bit_length() - 1):
        step = math.isqrt(step * one)
    powers = [WEIGHT_ONE * one]
    while len(powers) < STEPS_PER_HALVING:
        powers.append(powers[-1] * step // one)
    weights = [power // one >> halvings for halvings in range(WEIGHT_ONE.bit_length() + 1) for power in powers]
    return np.array(weights, dtype=np.float64)


_HALVINGS = _halvings()
