"""Ranks that lose their launcher: whoever tells of its end first, the launcher is the cause, unless a rank was."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.supervisor.simulation import EPOCH, Cluster, make_plan
from trtdist.supervisor import deaths, messages
from trtdist.supervisor.state import READY

RANKS = ("ctx.0.0", "ctx.0.1", "gen.0.0")


@pytest.mark.parametrize("restarts", [0, 3])
@pytest.mark.parametrize("last_seen", [None, 0, 1, 3])
def test_ranks_that_lost_their_launcher_come_after_it(restarts: int, last_seen: int | None) -> None:
    """Its end is seen after that of so many ranks; None is as soon as the first of them, which had ended before."""
    ends: list[messages.Input] = [
        messages.TaskEnded("workers", rank, None, 9, EPOCH + 5.0 + 0.003 * place, orphaned=True)
        for place, rank in enumerate(RANKS)
    ]
    ends.insert(last_seen or 0, messages.StepEnded("workers", 1, None, EPOCH + (5.0 if last_seen is None else 5.02)))
    assert _cause(ends, restarts) == "workers ended as a whole: its launcher ended with exit code 1"


@pytest.mark.parametrize("restarts", [0, 3])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_rank_that_was_killed_comes_before_its_launcher_and_those_that_lost_that(
    restarts: int, order: tuple[int, ...]
) -> None:
    ends = (
        messages.TaskEnded("workers", "gen.0.0", None, 9, EPOCH + 5.0),
        messages.TaskEnded("workers", "ctx.0.0", None, 9, EPOCH + 5.05, orphaned=True),
        messages.StepEnded("workers", 137, None, EPOCH + 5.06),
    )
    assert _cause([ends[place] for place in order], restarts) == "gen.0.0 (step workers) was killed by SIGKILL"


def test_a_rank_that_lost_its_launcher_has_not_taken_its_neighbours_along() -> None:
    neighbour = deaths.of_task("workers", "ctx.0.0", None, signal.SIGTERM, 5.0)
    killed = deaths.of_task("workers", "gen.0.0", None, signal.SIGKILL, 5.1)
    assert deaths.first_of((neighbour, killed)).name == "gen.0.0"
    assert deaths.first_of((neighbour, deaths.orphaned(killed))).name == "ctx.0.0"


def _cause(ends: Sequence[messages.Input], restarts: int) -> str:
    """What a ready run is told to fail of, or to survive."""
    made = make_plan()
    made = replace(made, steps=tuple(replace(step, restarts=restarts) for step in made.steps))
    cluster = Cluster(made)
    cluster.run([], until=5.0)
    assert cluster.state.phase == READY
    for end in ends:
        cluster.feed(end)
    cluster.run([], until=20.0)
    survived = [action.reason for _, action in cluster.log if isinstance(action, messages.Restarting)]
    (reason,) = survived if restarts else [cluster.outcome.reason]
    return reason.replace(" and nobody had asked it to", "")
