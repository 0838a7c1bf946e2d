"""What the model answers, computed without any engine: one rank, the prompt in one go, stop strings at the end."""

from __future__ import annotations

from trtdist.engines.base import Sampling
from trtdist.engines.reference.cache import Cache
from trtdist.engines.reference.model import Shard
from trtdist.engines.reference.sampling import chain, choose
from trtdist.engines.reference.shape import HEADS
from trtdist.engines.reference.text import tokenize, word

__all__ = ["Answer", "answer"]

# Tokens, text, finish reason, digest over all logits.
Answer = tuple[tuple[int, ...], str, str, str]

SHARD = Shard(1, 0, lambda values: None)


def answer(prompt: str, sampling: Sampling) -> Answer:
    """The whole answer; the sampling has a seed, or temperature 0."""
    cache, read, digest = Cache(HEADS), list(tokenize(prompt)), ""
    tokens: tuple[int, ...] = ()
    text = ""
    while len(tokens) < sampling.max_tokens:
        logits = SHARD.forward(cache, read)
        digest = chain(digest, logits)
        read = [choose(logits, sampling, sampling.seed or 0, len(tokens))]
        tokens += (read[0],)
        text += word(read[0])
        ends = [text.index(stop) for stop in sampling.stop if stop in text]
        if ends:
            return tokens, text[: min(ends)], "stop", digest
    return tokens, text, "length", digest
