"""The shape of the model, and what follows from it for the KV cache. Imports nothing."""

from __future__ import annotations

__all__ = [
    "CHUNK",
    "HEADS",
    "HEAD_WIDTH",
    "HIDDEN",
    "LAYERS",
    "POSITIONS",
    "VALUE_BYTES",
    "VOCABULARY",
    "WIDTH",
    "WORDS",
    "head_bytes",
    "heads_of",
    "kv_bytes",
]

LAYERS = 2
HEADS = 8
HEAD_WIDTH = 8
WIDTH = HEADS * HEAD_WIDTH
HIDDEN = 4 * WIDTH

# Prompt and answer together.
POSITIONS = 16384

# Tokens: 256 bytes, the beginning of a text, the words that answers are made of.
WORDS = 64
VOCABULARY = 257 + WORDS

# A prompt is read in pieces of so many tokens, between which other requests get their turn.
CHUNK = 128

# Keys and values travel as 16-bit integers, which is what the grid has room for.
VALUE_BYTES = 2


def head_bytes(tokens: int) -> int:
    """The size of the keys and values of one head: layers x tokens x head width x 2 x bytes per value."""
    return LAYERS * tokens * HEAD_WIDTH * 2 * VALUE_BYTES


def kv_bytes(tokens: int) -> int:
    """The size of a KV cache: layers x tokens x width x 2 (keys and values) x bytes per value."""
    return LAYERS * tokens * WIDTH * 2 * VALUE_BYTES


def heads_of(rank: int, tp: int) -> range:
    """The heads that a rank holds under tensor parallelism of `tp`."""
    count = HEADS // tp
    return range(rank * count, (rank + 1) * count)
