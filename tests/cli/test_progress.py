"""What is said while a run comes up and goes down."""

from __future__ import annotations

import pytest

from trtdist.cli.progress import Lines
from trtdist.events import Event, Record, Rung, RunState, StepStarted, TaskExited


def said(capsys: pytest.CaptureFixture[str], *events: Event) -> list[str]:
    Lines(100.0).tell([Record(101.0 + place, "supervisor", event) for place, event in enumerate(events)])
    return [line.split(" s  ", 1)[1] for line in capsys.readouterr().err.splitlines()]


def test_each_step_up_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    climbed = Rung("gen.0", "canary")
    found = said(capsys, StepStarted("gen.0", 7, 1), climbed, climbed, Rung("gen.0", "answering"))
    assert found == ["gen.0 started", "gen.0: answered a prompt", "gen.0: answers"]


def test_what_ends_as_it_was_asked_to_has_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    found = said(
        capsys,
        TaskExited("etcd", "etcd", 1, None, 2),
        RunState("STOPPING", "asked"),
        TaskExited("etcd", "etcd", 1, None, 2),
        TaskExited("nats", "nats", 1, 0, None),
        TaskExited("router", "router", 1, 143, None),
        TaskExited("gen.0.0", "gen.0.0", 1, None, 9),
        TaskExited("gen.1.0", "gen.1.0", 1, 1, None),
    )
    assert found == [
        "etcd ended (signal 2)",
        "STOPPING: asked",
        "etcd stopped",
        "nats stopped",
        "router stopped",
        "gen.0.0 ended (signal 9)",
        "gen.1.0 ended (exit code 1)",
    ]
