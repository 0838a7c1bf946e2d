"""The model is exact: how the work is divided cannot be seen in a single bit."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.engines.simulated import Group
from trtdist.engines.reference.arithmetic import EXACT, NORM, WEIGHT_ONE, hashed, normalised, soft_weights
from trtdist.engines.reference.cache import Cache
from trtdist.engines.reference.model import Shard, bounds
from trtdist.engines.reference.sampling import chain
from trtdist.engines.reference.shape import HEADS, POSITIONS, VOCABULARY, WIDTH, head_bytes, heads_of, kv_bytes
from trtdist.engines.reference.text import tokenize

Logits = NDArray[np.float64]
TPS = (1, 2, 4, 8)


def alone(_: Logits) -> None:
    """The sum over one rank."""


def run(tp: int, pieces: Sequence[Sequence[int]]) -> tuple[list[Logits], dict[int, bytes]]:
    """The logits after each piece, which every rank must agree on, and the KV cache of all heads."""
    group = Group(tp)
    logits: dict[int, list[Logits]] = {}
    heads: dict[int, bytes] = {}

    def work(rank: int) -> None:
        shard, cache = Shard(tp, rank, lambda values: group.allreduce(rank, values)), Cache(HEADS // tp)
        logits[rank] = [shard.forward(cache, piece) for piece in pieces]
        heads.update(cache.packed(heads_of(rank, tp)))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(tp)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(logits[rank], logits[0]) for rank in range(tp))
    return logits[0], heads


def same(one: Sequence[Logits], other: Sequence[Logits]) -> bool:
    return [each.tobytes() for each in one] == [each.tobytes() for each in other]


def cut(tokens: Sequence[int], places: Sequence[int]) -> list[Sequence[int]]:
    ends = sorted({place % len(tokens) for place in places} - {0})
    return [tokens[a:b] for a, b in itertools.pairwise([0, *ends, len(tokens)])]


def test_no_sum_can_leave_the_range_of_exact_integers() -> None:
    found = bounds()
    assert max(found.values()) < EXACT
    assert found["key or value"] < 2**15, "keys and values travel as 16-bit integers"
    assert found["weighted values"] >= POSITIONS * WEIGHT_ONE


def test_keys_and_values_stay_on_the_grid() -> None:
    cache = Cache(HEADS)
    logits = Shard(1, 0, alone).forward(cache, list(range(256)))
    assert np.array_equal(logits, np.rint(logits)) and np.abs(logits).max() <= WIDTH * NORM * 2**5
    data = cache._data
    assert np.array_equal(data, np.rint(data)) and np.abs(data).max() <= bounds()["key or value"]


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=80),
    places=st.lists(st.integers(0, 79), max_size=6),
    tp=st.sampled_from(TPS),
    other=st.sampled_from(TPS),
)
def test_logits_are_the_same_bit_by_bit(tokens: list[int], places: list[int], tp: int, other: int) -> None:
    logits, heads = run(1, [tokens])
    divided, divided_heads = run(tp, cut(tokens, places))
    one_by_one, _ = run(other, [[token] for token in tokens])
    assert same(logits, divided[-1:]) and same(logits, one_by_one[-1:])
    assert heads == divided_heads
    assert sum(map(len, heads.values())) == kv_bytes(len(tokens))


@settings(max_examples=15, deadline=None)
@given(prompt=st.text(min_size=1, max_size=40), follow=st.integers(257, VOCABULARY - 1), context=st.sampled_from(TPS))
def test_a_cache_that_travelled_goes_on_the_same(prompt: str, follow: int, context: int) -> None:
    tokens = tokenize(prompt)
    _, heads = run(context, [tokens])
    arrived = Cache.unpacked(heads, len(tokens))
    expected, _ = run(1, [[*tokens, follow]])
    assert same([Shard(1, 0, alone).forward(arrived, [follow])], expected)


def test_every_head_of_the_cache_matters() -> None:
    tokens = tokenize("The capital of France is")
    _, heads = run(1, [tokens])
    expected, _ = run(1, [[*tokens, 300]])
    for head in range(HEADS):
        other = (head + 1) % HEADS
        swapped = {**heads, head: heads[other]}
        assert not same([Shard(1, 0, alone).forward(Cache.unpacked(swapped, len(tokens)), [300])], expected)


def test_the_weights_are_fixed() -> None:
    """Another numpy, another machine: the same numbers. Whoever changes the model changes this on purpose."""
    assert hashed(0, np.arange(2), 3, 256).tolist() == [[-255.0, 22.0, 28.0], [88.0, -137.0, -96.0]]
    assert chain("", run(2, [tokenize("The capital of France is")])[0][0]) == "03099ff41a7dd2421bd9ba8d968de404"


def test_weights_of_a_softmax_end_at_nothing() -> None:
    scores = np.array([[0.0, -16.0, -32.0, -255.0, -(2.0**40)]])
    assert soft_weights(scores).tolist() == [[WEIGHT_ONE, WEIGHT_ONE / 2, WEIGHT_ONE / 4, 1, 0]]


@settings(max_examples=20)
@given(st.lists(st.integers(-(2**15), 2**15), min_size=WIDTH, max_size=WIDTH))
def test_normalised_rows_keep_to_the_limit(row: list[int]) -> None:
    found = normalised(np.array([row], dtype=np.float64))
    assert np.abs(found).max() <= NORM and np.array_equal(found, np.rint(found))


def test_at_the_last_position_all_is_as_at_the_first() -> None:
    """A cache of the largest keys and values that there can be, up to the limit."""
    size, limit = head_bytes(POSITIONS - 1) // 2, bounds()["key or value"]
    full = {head: (hashed(head, np.arange(size), 1, limit)).astype("<i2").tobytes() for head in range(HEADS)}
    group, found = Group(2), {}

    def work(rank: int) -> None:
        heads = {head: full[head] for head in heads_of(rank, 2)}
        shard = Shard(2, rank, lambda values: group.allreduce(rank, values))
        found[rank] = shard.forward(Cache.unpacked(heads, POSITIONS - 1), [300])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same([found[0]], [Shard(1, 0, alone).forward(Cache.unpacked(full, POSITIONS - 1), [300])])


def test_blocks_of_a_long_prompt_cannot_be_seen() -> None:
    tokens = [number * number % 256 for number in range(700)]
    pieces = [tokens[start : start + 96] for start in range(0, len(tokens), 96)]
    whole, divided = run(1, [tokens]), run(2, pieces)
    assert same(whole[0], divided[0][-1:]) and whole[1] == divided[1]
