"""Tokens, stop strings and sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.engines.base import EngineError, Sampling
from trtdist.engines.reference.sampling import check_sampling, choose
from trtdist.engines.reference.shape import VOCABULARY, WORDS
from trtdist.engines.reference.text import BEGIN, FIRST_WORD, StopText, tokenize, word


@given(st.text(st.characters(codec=None)))
def test_any_prompt_has_tokens(prompt: str) -> None:
    tokens = tokenize(prompt)
    assert tokens[0] == BEGIN and bytes(tokens[1:]).decode("utf-8", "surrogatepass") == prompt


def test_answers_are_printable_words() -> None:
    words = [word(token) for token in range(FIRST_WORD, VOCABULARY)]
    assert len(set(words)) == WORDS and all(each.isprintable() and each.isascii() for each in words)


@given(
    pieces=st.lists(st.text("abc ", max_size=4), max_size=12),
    stops=st.lists(st.text("abc ", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    scanner, given_out = StopText(tuple(stops)), ""
    for piece in pieces:
        given_out += scanner.push(piece)
        if scanner.found:
            break
        assert not any(stop in given_out for stop in stops)
    given_out += scanner.rest()
    # The first piece after which some stop string is there decides, as it does for a reader of the stream.
    seen = ""
    for piece in pieces:
        seen += piece
        ends = [seen.index(stop) for stop in stops if stop in seen]
        if ends:
            assert scanner.found and given_out == seen[: min(ends)]
            return
    assert not scanner.found and given_out == seen


def test_temperature_zero_takes_the_best() -> None:
    logits = np.arange(WORDS, dtype=np.float64)
    assert choose(logits, Sampling(temperature=0), 1, 0) == VOCABULARY - 1
    assert choose(np.zeros(WORDS), Sampling(temperature=0), 1, 0) == FIRST_WORD


@given(seed=st.integers(-(2**63), 2**64), index=st.integers(0, 10000), temperature=st.floats(1e-300, 100.0))
def test_a_seed_decides(seed: int, index: int, temperature: float) -> None:
    logits = np.sin(np.arange(WORDS)) * 20000
    sampling = Sampling(temperature=temperature)
    found = choose(logits, sampling, seed, index)
    assert found == choose(logits, sampling, seed, index) and FIRST_WORD <= found < VOCABULARY


def test_sampling_follows_the_chances() -> None:
    logits = np.full(WORDS, -(2.0**40))
    logits[3], logits[7] = 0.0, -(2**13) * math.log(3)
    drawn = [choose(logits, Sampling(), 5, index) - FIRST_WORD for index in range(1000)]
    assert set(drawn) == {3, 7} and 680 < drawn.count(3) < 820
    narrow = [choose(logits, Sampling(top_p=0.7), 5, index) - FIRST_WORD for index in range(200)]
    assert set(narrow) == {3}


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=0),
        Sampling(temperature=-1),
        Sampling(temperature=math.nan),
        Sampling(temperature=math.inf),
        Sampling(top_p=1.5),
        Sampling(top_p=math.nan),
    ],
)
def test_what_cannot_be_sampled_is_refused(sampling: Sampling) -> None:
    with pytest.raises(EngineError):
        check_sampling(sampling)
