"""The supervisor's decisions hold in every simulated life, and cost the same in large ones."""

from __future__ import annotations

import time

import pytest

from trtdist.simulation import plans
from trtdist.simulation.facts import Scene
from trtdist.simulation.life import live
from trtdist.simulation.scenes import quiet, scene
from trtdist.simulation.summary import live_all, trace


def test_a_thousand_lives_keep_the_invariants() -> None:
    summary = live_all(map(scene, range(1000)), time.process_time)
    assert [(life.seed, life.broken) for life in summary.broken] == []
    assert summary.lives == 1000
    # Lives that never come up, or always end the same way, would prove little.
    assert summary.ready > 300
    assert {state: count > 50 for state, count in summary.ended.items()} == dict.fromkeys(
        ("FAILED", "STOPPED", "INTERRUPTED", "TIMEOUT"), True
    )


@pytest.mark.long
def test_ten_thousand_more_within_two_minutes() -> None:
    begun = time.process_time()
    summary = live_all(map(scene, range(1000, 11000)), time.process_time)
    assert [(life.seed, life.broken) for life in summary.broken] == []
    assert time.process_time() - begun < 120.0


@pytest.mark.parametrize("seed", [8, 46, 57, 70])
def test_a_seed_replays_exactly(seed: int) -> None:
    first, events = trace(scene(seed))
    again, same = trace(scene(seed))
    assert (first, events) == (again, same)
    assert len(events) > 10


def test_nothing_goes_wrong_in_a_quiet_life() -> None:
    for seed in range(30):
        life = live(quiet(seed))
        assert (life.broken, life.state, life.was_ready) == ("", "STOPPED", True)


@pytest.mark.long
def test_four_thousand_servers_live_in_seconds() -> None:
    begun = time.process_time()
    life = live(quiet(0, plans.large(1000)))
    assert (life.broken, life.state, life.was_ready) == ("", "STOPPED", True)
    assert life.events > 20_000
    assert time.process_time() - begun < 15.0


def test_a_decision_costs_the_same_with_any_number_of_servers() -> None:
    def cost(nodes: int) -> float:
        large: Scene = quiet(0, plans.large(nodes))
        lives = [live(large, clock=time.process_time) for _ in range(2)]
        return min(life.cost / life.events for life in lives)

    assert cost(100) < 3 * cost(5)


def test_large_lives_with_faults_keep_the_invariants() -> None:
    plan = plans.large(10)
    assert [life.broken for seed in range(20) if (life := live(scene(seed, plan))).broken] == []
