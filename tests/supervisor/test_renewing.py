"""When certificates are looked at, and when NATS is told that they are new."""

from __future__ import annotations

import signal

import pytest

from tests.supervisor.test_handover import DOWN, Life
from trtdist.supervisor import messages
from trtdist.supervisor.machine import next_deadline
from trtdist.supervisor.renewal_messages import LookedAt, Renew

TOLD = messages.Signal("nats", int(signal.SIGHUP))


def begun() -> Life:
    life = Life()
    for event in (messages.Begin(), messages.Resolved("")):
        life.hear(event, 1.0)
    return life


def test_they_are_looked_at_once_there_are_addresses_and_before_anything_is_late() -> None:
    life = begun()
    assert life.of(Renew) == [Renew()]
    life.hear(LookedAt(10.0), 2.0)
    life.hear(messages.Tick(), 11.0)
    assert life.of(Renew) == [Renew()]
    life.hear(messages.Tick(), 12.0)
    assert life.of(Renew) == [Renew(), Renew()]


def test_the_next_look_is_a_deadline_of_the_machine() -> None:
    life = begun()
    life.hear(LookedAt(5.0), 2.0)
    assert next_deadline(life.state) == 7.0


def test_nats_is_told_once_and_only_when_they_are_new() -> None:
    life = begun()
    life.hear(messages.Healthy("nats", ""), 2.0)
    life.hear(LookedAt(5.0), 3.0)
    assert TOLD not in life.said
    life.hear(LookedAt(5.0, renewed=True), 4.0)
    life.hear(messages.Tick(), 5.0)
    assert life.said.count(TOLD) == 1
    life.hear(LookedAt(5.0, renewed=True), 6.0)
    assert life.said.count(TOLD) == 2


def test_nats_is_told_no_sooner_than_it_is_healthy() -> None:
    life = begun()
    life.hear(LookedAt(5.0, renewed=True), 2.0)
    life.hear(LookedAt(50.0), 3.0)
    assert TOLD not in life.said
    life.hear(messages.Healthy("nats", ""), 4.0)
    assert life.said.count(TOLD) == 1


@pytest.mark.parametrize("again_in", [0.0, 5.0])
def test_nothing_is_renewed_in_a_stop(again_in: float) -> None:
    life = begun()
    life.hear(messages.Healthy("nats", ""), 2.0)
    life.hear(DOWN, 3.0)
    life.hear(LookedAt(again_in, renewed=True), 3.0)
    life.hear(messages.Tick(), 20.0)
    assert life.of(Renew) == [Renew()]
    assert TOLD not in life.said
