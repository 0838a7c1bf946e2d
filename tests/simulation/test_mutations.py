"""A supervisor that forgets any one of its rules is found out within a few hundred lives."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from trtdist.simulation.facts import Scene
from trtdist.simulation.life import Decide, Life, live
from trtdist.simulation.scenes import scene
from trtdist.supervisor import handover_messages, machine, messages, renewal_messages
from trtdist.supervisor.state import State

LIVES = 400
RULES = machine._RULES
# Time that goes by leaves no fact behind: the rules read it themselves. Simulated servers have no logs that stop
# growing: tests/supervisor/test_stalls.py has those.
UNTRIED = (
    messages.Tick, messages.Moved, messages.Seen, messages.Unanswered, handover_messages.SuccessorAsked,
)  # fmt: skip
HANDLED = [kind for kind in machine._HANDLERS if kind not in UNTRIED]
ACTIONS = (
    messages.Resolve, messages.Start, messages.Probe, messages.TestPort, messages.Signal, messages.SignalTask,
    messages.Kill, messages.Announce, messages.Sweep, messages.Conclude, messages.Finish, messages.Withdraw,
    messages.Place, messages.Restarting, messages.WrittenOff, messages.Drained, messages.Refuse,
    handover_messages.Succeed, handover_messages.HandOver, handover_messages.CallOff,
    renewal_messages.Renew,
)  # fmt: skip


@cache
def drawn(seed: int) -> Scene:
    return scene(seed)


def found_out(decide: Decide) -> Life | None:
    """The first life in which a supervisor that decides like this breaks an invariant."""
    return next((life for seed in range(LIVES) if (life := live(drawn(seed), decide)).broken), None)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_that_is_missing(rule: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_RULES", tuple(other for other in RULES if other is not rule))
    assert found_out(machine.advance)


@pytest.mark.parametrize("kind", HANDLED, ids=lambda kind: kind.__name__)
def test_an_event_that_is_not_heard(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine._HANDLERS, kind, lambda state, event, now: (state, []))
    assert found_out(machine.advance)


@pytest.mark.parametrize("kind", ACTIONS, ids=lambda kind: kind.__name__)
def test_an_action_that_is_forgotten(kind: type) -> None:
    def decide(state: State, event: messages.Input, now: float) -> tuple[State, list[messages.Action]]:
        state, actions = machine.advance(state, event, now)
        return state, [action for action in actions if not isinstance(action, kind)]

    assert found_out(decide)


def with_settings(**changed: float) -> Decide:
    def decide(state: State, event: messages.Input, now: float) -> tuple[State, list[messages.Action]]:
        return machine.advance(replace(state, settings=replace(state.settings, **changed)), event, now)  # type: ignore[arg-type]

    return decide


def with_actions(change: Callable[[list[messages.Action]], list[messages.Action]]) -> Decide:
    def decide(state: State, event: messages.Input, now: float) -> tuple[State, list[messages.Action]]:
        state, actions = machine.advance(state, event, now)
        return state, change(actions)

    return decide


def early_ready(actions: list[messages.Action]) -> list[messages.Action]:
    return [*actions, messages.Announce("READY", "")] if messages.Start("canary") in actions else actions


def all_is_well(actions: list[messages.Action]) -> list[messages.Action]:
    return [
        messages.Announce("READY", "") if isinstance(action, messages.Announce) and action.state == "READY" else action
        for action in actions
    ]


def twice(actions: list[messages.Action]) -> list[messages.Action]:
    verdicts = [action for action in actions if isinstance(action, messages.Conclude)]
    return [*verdicts, *actions]


def nobody_to_blame(actions: list[messages.Action]) -> list[messages.Action]:
    return [
        messages.Conclude(replace(action.outcome, first=None)) if isinstance(action, messages.Conclude) else action
        for action in actions
    ]


def always_well(actions: list[messages.Action]) -> list[messages.Action]:
    return [messages.Finish(0) if isinstance(action, messages.Finish) else action for action in actions]


@pytest.mark.parametrize(
    ("decide", "said"),
    [
        (with_settings(settle=0.0), "nothing calls for it"),
        (with_settings(settle=0.6), "late"),
        (with_settings(doubt=0.0), "nothing calls for it|told at the wrong time"),
        (with_settings(kill_wait=0.0), "before"),
        (with_settings(kill_wait=30.0), "longer than it may"),
        (with_settings(port_attempts=9), "started"),
        (with_settings(forgive=0.0), "started again otherwise"),
        (with_settings(forgive=1e9), "nothing calls for it|started again otherwise"),
        (with_actions(all_is_well), "are said to be missing"),
        (with_actions(early_ready), "before the canary"),
        (with_actions(twice), "two verdicts"),
        (with_actions(nobody_to_blame), "is named"),
        (with_actions(always_well), "exit code"),
    ],
)
def test_a_supervisor_that_is_wrong_is_told_how(decide: Decide, said: str) -> None:
    life = found_out(decide)
    assert life is not None
    assert re.search(said, life.broken)
