"""A mapping that is changed by copies is a dict to whoever reads it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trtdist.supervisor.overlay import Overlay

keys = st.sampled_from([f"gen.{i}" for i in range(40)])


@given(st.dictionaries(keys, st.integers()), st.lists(st.tuples(keys, st.integers()), max_size=60))
def test_it_reads_as_a_dict_that_saw_the_same_changes(first: dict[str, int], changes: list[tuple[str, int]]) -> None:
    expected = dict(first)
    overlay = Overlay(first)
    kept = []
    for key, value in changes:
        kept.append((overlay, dict(expected)))
        overlay = overlay.having(key, value)
        expected[key] = value
        assert list(overlay.items()) == list(expected.items())
        assert len(overlay) == len(expected)
    for older, then in kept:
        assert dict(older) == then
    assert overlay.get("nobody") is None
