"""Bytes of any kind are read or refused: what was found once, and what hypothesis makes of what is well formed."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS

SOME = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from([10**400, "a.b", "\ud800"]),
)
PIECES = st.sampled_from([b"", b"{", b"]", b"\n", b"null", b"-1", b"1e999", b'"', b"\xff"]) | st.binary(max_size=4)
TEXTS = st.text(max_size=30).map(lambda text: text.encode("utf-8", "ignore"))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, seeds in SEEDS.items() for seed in seeds])
def test_what_was_found_once_stays_mended(name: str, seed: bytes) -> None:
    TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
@SOME
@given(st.data())
def test_any_bytes(name: str, data: st.DataObject) -> None:
    TARGETS[name](
        data.draw(st.binary(max_size=60) | st.text(max_size=30).map(lambda text: text.encode("utf-8", "ignore")))
    )


@pytest.mark.parametrize("name", TARGETS)
@SOME
@given(st.data())
def test_what_is_well_formed_with_pieces_replaced(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(SEEDS[name]))
    start = data.draw(st.integers(0, len(seed)))
    end = data.draw(st.integers(start, min(len(seed), start + 12)))
    TARGETS[name](seed[:start] + data.draw(PIECES) + seed[end:])


@pytest.mark.parametrize("name", ["wire", "etcd", "events"])
@SOME
@given(st.data())
def test_objects_with_one_odd_value(name: str, data: st.DataObject) -> None:
    raw = json.loads(data.draw(st.sampled_from([seed for seed in SEEDS[name] if _reads(seed)])))
    raw[data.draw(st.sampled_from(sorted(raw)))] = data.draw(JSON)
    TARGETS[name](json.dumps(raw).encode())


def _reads(seed: bytes) -> bool:
    try:
        return isinstance(json.loads(seed), dict)
    except (ValueError, RecursionError):
        return False
