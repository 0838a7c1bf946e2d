"""When another run is asked for, when this one leaves for it, and what becomes of it when this one ends otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.supervisor.simulation import make_plan
from trtdist.supervisor import facts, messages
from trtdist.supervisor.handover_messages import (
    CallOff,
    HandOver,
    HandOverDue,
    Succeed,
    SuccessorAsked,
    SuccessorLost,
    SuccessorReady,
)
from trtdist.supervisor.machine import advance, next_deadline
from trtdist.supervisor.state import READY, State, initial

SETTINGS = facts.Settings(grace=10.0, linger=15.0, successor_pause=20.0)
LIMIT = messages.TimeLimit("job 7 reaches its time limit in 60 s")
DOWN = messages.StopAsked(False, None, "stopped by `trtdist down`")


class Life:
    """A state machine, and what it said."""

    def __init__(self) -> None:
        self.state: State = initial(make_plan(), SETTINGS)
        self.said: list[messages.Action] = []

    def hear(self, event: messages.Input, now: float) -> None:
        self.state, actions = advance(self.state, event, now)
        self.said += actions

    def of(self, *kinds: type) -> list[messages.Action]:
        return [action for action in self.said if isinstance(action, kinds)]

    @property
    def reason(self) -> str:
        assert self.state.stop is not None
        return self.state.stop.outcome.reason

    @property
    def ending(self) -> tuple[str, int]:
        assert self.state.stop is not None
        return self.state.stop.outcome.state, self.state.stop.outcome.exit_code


def up() -> Life:
    life = Life()
    events: Sequence[messages.Input] = (
        messages.Begin(), messages.Resolved(""), messages.Healthy("nats", ""), messages.Healthy("etcd", ""),
        *(messages.TaskBegan(step, step) for step in ("nats", "etcd", "workers", "router", "canary")),
        messages.CameReady(),
    )  # fmt: skip
    for event in events:
        life.hear(event, 1.0)
    # Every step runs, so that nothing is awaited any more.
    life.hear(messages.Tick(), 1.0 + SETTINGS.start_timeout)
    assert life.state.phase == READY
    return life


def asked() -> Life:
    life = up()
    life.hear(HandOverDue(), 150.0)
    life.hear(SuccessorAsked("next", "8"), 151.0)
    assert life.of(Succeed) == [Succeed(1)]
    return life


def test_one_is_asked_for_when_it_is_due_and_the_run_is_ready() -> None:
    life = Life()
    life.hear(messages.Begin(), 0.0)
    life.hear(HandOverDue(), 1.0)
    assert life.of(Succeed) == []
    for event in (messages.Resolved(""), messages.Healthy("nats", ""), messages.Healthy("etcd", "")):
        life.hear(event, 2.0)
    life.hear(messages.CameReady(), 3.0)
    life.hear(HandOverDue(), 4.0)
    assert life.of(Succeed) == [Succeed(1)]


def test_it_leaves_a_while_after_the_other_one_is_ready_and_may_take_the_time_that_is_left() -> None:
    life = asked()
    life.hear(SuccessorReady("next", "8", 100.0), 200.0)
    assert life.of(HandOver) == [HandOver("next")]
    assert (life.state.phase, next_deadline(life.state)) == (READY, 215.0)
    life.hear(messages.Tick(), 215.0)
    assert life.ending == ("STOPPED", 0)
    assert life.reason == "handed over to next (job 8)"
    assert life.state.stop is not None and life.state.stop.deadline == 300.0
    # Nothing is called off, and the limit shortens what is under way.
    life.hear(LIMIT, 250.0)
    assert life.state.stop.deadline == 260.0
    assert life.of(CallOff) == []


def test_each_tier_may_use_all_the_time_but_the_usual_grace() -> None:
    life = asked()
    life.hear(SuccessorReady("next", "8", 100.0), 200.0)
    life.hear(messages.Tick(), 215.0)
    for step in ("router", "canary"):
        life.hear(messages.StepEnded(step, 0, None, 1.0), 216.0)
    within = {action.step: action.within for action in life.said if isinstance(action, messages.Signal)}
    assert (within["router"], within["workers"]) == (75.0, 74.0)


def test_the_limit_while_clients_still_turn_is_a_hand_over_too() -> None:
    life = asked()
    life.hear(SuccessorReady("next", "8", 2.0), 200.0)
    life.hear(LIMIT, 200.5)
    assert (life.ending, life.reason) == (("STOPPED", 0), "handed over to next (job 8)")


def test_another_one_is_asked_for_once_and_no_more() -> None:
    life = asked()
    life.hear(SuccessorLost("next (job 8) has ended"), 160.0)
    assert next_deadline(life.state) == 180.0
    life.hear(messages.Tick(), 180.0)
    assert life.of(Succeed) == [Succeed(1), Succeed(2)]
    life.hear(SuccessorLost("the next job could not be submitted: no"), 181.0)
    assert (life.state.phase, next_deadline(life.state)) == (READY, None)
    life.hear(HandOverDue(), 190.0)
    assert len(life.of(Succeed)) == 2
    life.hear(LIMIT, 200.0)
    assert life.ending == ("TIMEOUT", 1)
    assert life.reason == f"{LIMIT.reason}; no run took over: the next job could not be submitted: no"


def test_at_the_limit_one_that_is_on_its_way_is_named_and_left_to_come_up() -> None:
    life = asked()
    life.hear(LIMIT, 200.0)
    assert life.ending == ("TIMEOUT", 1)
    assert life.reason == f"{LIMIT.reason}; next (job 8) that was to take over is not READY yet"
    assert life.of(CallOff) == []
    # Ready at last, it gets the clients that are still here.
    life.hear(SuccessorReady("next", "8", 0.0), 201.0)
    assert life.of(HandOver) == [HandOver("next")]


@pytest.mark.parametrize(
    ("end", "called_off"),
    [
        (DOWN, True),
        (messages.StopAsked(True, None, "interrupted (SIGTERM)"), True),
        (messages.EveryoneTerminated("job 7 was cancelled (scancel)"), True),
        (messages.EveryoneTerminated("job 7 was preempted by another job", certain=True), False),
        (messages.EveryoneTerminated("job 7 lost node2", "FAILED", 1, certain=True), False),
        (messages.Broke("the disk is full"), False),
    ],
)
def test_it_is_called_off_when_somebody_ends_the_run(end: messages.Input, called_off: bool) -> None:
    life = asked()
    life.hear(end, 160.0)
    assert life.of(CallOff) == ([CallOff()] if called_off else [])
    life.hear(SuccessorReady("next", "8", 5.0), 161.0)
    assert bool(life.of(HandOver)) != called_off
    assert "handed over" not in life.reason


def test_nothing_is_called_off_that_was_not_asked_for_or_has_taken_over() -> None:
    life = up()
    life.hear(DOWN, 160.0)
    assert life.of(CallOff) == []
    life = asked()
    life.hear(SuccessorReady("next", "8", 100.0), 200.0)
    life.hear(DOWN, 201.0)
    assert (life.of(CallOff), life.reason) == ([], "stopped by `trtdist down`")
