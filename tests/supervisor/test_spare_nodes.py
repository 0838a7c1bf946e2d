"""Spares take the numbers of nodes that are down, and nothing else moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trtdist.supervisor.spare_nodes import LISTS, moved


def found(count: int) -> dict[str, str]:
    nodes = [f"node{number}" for number in range(count)]
    lists = (nodes, [f"10.0.0.{number}" for number in range(count)], [f"0.{number:03d}" for number in range(count)])
    return {"TRTDIST_STAMP": "old", "OTHER": "x", **dict(zip(LISTS, map(" ".join, lists), strict=True))}


def test_a_spare_takes_the_place_of_a_node() -> None:
    after, changed = moved(found(4), [1], 3, ["node1", "node9"])
    assert changed == [("node1", "node3")]
    assert [after[name] for name in LISTS] == ["node0 node3 node2", "10.0.0.0 10.0.0.3 10.0.0.2", "0.000 0.003 0.002"]
    assert after["OTHER"] == "x" and after["TRTDIST_STAMP"].startswith("old.")


@given(
    used=st.integers(1, 6),
    spares=st.integers(0, 4),
    wanted=st.sets(st.integers(0, 5)),
    down=st.sets(st.integers(0, 9)),
)
def test_each_node_keeps_its_address(used: int, spares: int, wanted: set[int], down: set[int]) -> None:
    before = found(used + spares)
    names, gone = before["TRTDIST_NODES"].split(), {f"node{number}" for number in down}
    after, changed = moved(before, wanted, used, gone)
    rows = list(zip(*(after[name].split() for name in LISTS), strict=True))
    assert set(rows) <= set(zip(*(before[name].split() for name in LISTS), strict=True))
    assert len({row[0] for row in rows}) == len(rows) >= used
    for number, row in enumerate(rows[:used]):
        if row[0] != names[number]:
            assert number in wanted and number > 0 and names[number] in gone
            assert (names[number], row[0]) in changed and row[0] not in gone
    healthy = [name for name in names[used:] if name not in gone]
    needed = [number for number in wanted if 0 < number < used and names[number] in gone]
    assert len(changed) == min(len(healthy), len(needed))
