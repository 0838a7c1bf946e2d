"""What policies make of traces in the simulator."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdist.bench.routing import Cluster, simulate
from trtdist.bench.synthetic import Conversations
from trtdist.bench.trace import BLOCK_TOKENS, TraceLine
from trtdist.serving.instance import Instance
from trtdist.serving.policies import POLICIES, Load, Prompt, View, block_hashes, kv_prefix

INSTANCES = [Instance.of("ns", "tensorrt-llm-ctx", "generate", lease, f"ctx.{lease}") for lease in (1, 2, 3)]
FIRST, SECOND, THIRD = (one.lease_hex for one in INSTANCES)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rate", "servers", "blocks"), [(2.0, 4, 1000), (8.0, 4, 300), (16.0, 8, 1000)])
def test_kv_prefix_halves_the_work_and_keeps_servers_even(seed: int, rate: float, servers: int, blocks: int) -> None:
    trace, cluster = Conversations(rate=rate).trace(seed), Cluster(servers, blocks=blocks)
    found = {name: simulate(trace, policy, cluster) for name, policy in POLICIES.items()}
    assert found["kv_prefix"].computed <= found["round_robin"].computed / 2
    assert found["kv_prefix"].imbalance <= 0.15
    assert found["kv_prefix"].wait.p99 < found["round_robin"].wait.p99


TRACES = st.lists(
    st.tuples(st.integers(0, 5000), st.lists(st.integers(0, 20), max_size=6), st.integers(0, 600)), max_size=30
).map(
    lambda rows: [
        TraceLine(float(at), len(ids) * BLOCK_TOKENS + more + 1, 1, tuple(ids)) for at, ids, more in sorted(rows)
    ]
)


@settings(max_examples=50)
@given(TRACES, st.sampled_from(sorted(POLICIES)), st.integers(1, 4), st.integers(1, 30))
def test_every_token_is_computed_or_held(trace: list[TraceLine], name: str, servers: int, blocks: int) -> None:
    found = simulate(trace, POLICIES[name], Cluster(servers, blocks=blocks))
    assert found.requests == len(trace)
    assert found.prompt_tokens == sum(line.input_length for line in trace)
    assert sum(found.per_server) == found.computed <= found.prompt_tokens
    assert 0 <= found.hit_rate <= 1
    assert 0 <= found.imbalance <= servers - 1


def test_a_prompt_that_comes_again_is_held_until_it_is_forgotten() -> None:
    def line(at: float, *ids: int) -> TraceLine:
        return TraceLine(at, 2 * BLOCK_TOKENS, 1, ids)

    trace = [line(0, 1, 2), line(1000, 1, 2), line(2000, 3, 4), line(3000, 1, 2)]
    large, small = (simulate(trace, POLICIES["round_robin"], Cluster(1, blocks=blocks)) for blocks in (4, 2))
    assert (large.computed, small.computed) == (4 * BLOCK_TOKENS, 6 * BLOCK_TOKENS)


def test_kv_prefix_weighs_a_held_prefix_against_the_load() -> None:
    prompt = Prompt(1000, (7, 8, 9), 300)
    held = {SECOND: {7, 8}, THIRD: {8, 9}}
    assert kv_prefix(INSTANCES, View(0, {}, prompt, held)).lease_hex == SECOND
    # 600 tokens are held, so up to 600 more in the queue are worth it.
    assert kv_prefix(INSTANCES, View(0, {SECOND: Load(1, 599)}, prompt, held)).lease_hex == SECOND
    assert kv_prefix(INSTANCES, View(0, {SECOND: Load(1, 601)}, prompt, held)).lease_hex == FIRST
    assert kv_prefix(INSTANCES, View(2, {SECOND: Load(1, 601)}, prompt, held)).lease_hex == THIRD


@given(st.lists(st.integers(0, 2**31), max_size=60), st.lists(st.integers(0, 2**31), max_size=60), st.integers(1, 9))
def test_equal_block_hashes_mean_equal_prefixes(one: list[int], other: list[int], size: int) -> None:
    first, second = block_hashes(one, size), block_hashes(one + other, size)
    assert len(first) == len(one) // size
    assert second[: len(first)] == first
    assert len(set(second)) == len(second)
    if one[:size] != other[:size] and len(one) >= size and len(other) >= size:
        assert not set(first) & set(block_hashes(other, size))
