"""The fewest nodes, against a search of all ways to pack."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdist.planning.packing import Demand, nodes_spanned, own_gpus
from trtdist.planning.sharing import share_gpus

SMALL = st.tuples(st.integers(1, 7), st.integers(1, 12))


def fewest(kinds: list[tuple[int, int]], gpus: int) -> int:
    """The fewest nodes for servers of two sizes, by trying all that one node can hold."""
    (first, first_size), (second, second_size) = kinds

    @cache
    def needed(ones: int, others: int) -> int:
        if not ones and not others:
            return 0
        best = ones + others
        for one in range(min(ones, gpus // first_size) + 1):
            other = min(others, (gpus - one * first_size) // second_size)
            if one or other:
                best = min(best, 1 + needed(ones - one, others - other))
        return best

    return needed(first, second)


@given(SMALL, SMALL, st.integers(1, 12))
def test_no_packing_takes_fewer_nodes(first: tuple[int, int], second: tuple[int, int], gpus: int) -> None:
    kinds = [(count, min(size, gpus)) for count, size in (first, second)]
    seats, nodes = own_gpus([Demand(count, size, 1) for count, size in kinds], gpus)
    assert nodes == fewest(kinds, gpus)
    taken = [seat for server in seats for seat in server]
    assert len(set(taken)) == len(taken)


def test_many_servers_of_awkward_sizes_are_packed_without_a_gap_and_at_once() -> None:
    _, nodes = own_gpus([Demand(10_000, 3, 1), Demand(10_000, 5, 1)], 8)
    assert nodes == 10_000
    _, nodes = own_gpus([Demand(5_000, 7, 1), Demand(5_000, 11, 1)], 72)
    assert nodes == -(-5_000 * 18 // 72)


def test_rank_order_is_kept_where_it_costs_nothing() -> None:
    seats, nodes = own_gpus([Demand(2, 2, 1), Demand(1, 4, 1)], 8)
    assert nodes == 1
    assert [gpu for server in seats for _, gpu in server] == list(range(8))


def test_first_fit_is_not_enough() -> None:
    seats, nodes = own_gpus([Demand(2, 3, 1), Demand(2, 5, 1)], 8)
    assert nodes == 2
    assert [server[0][0] for server in seats] == [0, 1, 0, 1]


def test_large_servers_have_their_nodes_to_themselves() -> None:
    seats, nodes = own_gpus([Demand(1, 12, 1), Demand(1, 2, 1)], 8)
    assert nodes == 3
    assert [seats[0].count((node, 5)) for node in range(3)] == [1, 1, 0]
    assert seats[1] == [(2, 0), (2, 1)]


@pytest.mark.parametrize(("size", "gpus", "nodes"), [(8, 8, 1), (9, 8, 3), (16, 8, 2), (12, 8, 2), (11, 8, 11)])
def test_nodes_spanned(size: int, gpus: int, nodes: int) -> None:
    assert nodes_spanned(size, gpus) == nodes


def test_sharing_begins_when_all_gpus_have_something() -> None:
    seats = share_gpus([Demand(1, 2, 250_000), Demand(3, 1, 250_000)], nodes=1, gpus=4)
    assert seats == [[(0, 0), (0, 1)], [(0, 2)], [(0, 3)], [(0, 0)]]


def test_sharing_finds_room_that_rank_order_would_waste() -> None:
    assert share_gpus([Demand(2, 1, 400_000), Demand(1, 1, 700_000)], nodes=1, gpus=2) == [[(0, 1)], [(0, 1)], [(0, 0)]]


def test_a_server_never_shares_a_gpu_with_itself() -> None:
    assert share_gpus([Demand(1, 3, 1)], nodes=1, gpus=2, limit=10**9) is None
