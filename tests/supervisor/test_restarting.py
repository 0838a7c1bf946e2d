"""The real supervisor starts real processes again, and what an earlier life says late is not held against a later."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.supervisor.runs import SLEEP, HandMade, wait_for
from tests.supervisor.simulation import make_plan
from trtdist.events import ControlRefused, Record, Restarting, Rung, StepStarted, TaskExited, TaskRefused, TaskStarted
from trtdist.plan import to_json
from trtdist.supervisor import control
from trtdist.supervisor.lives import Lives


def restartable(folder: Path) -> HandMade:
    made = make_plan("per_server", (1, 1, 1))
    steps = [replace(step, restarts=2, backoff=0.2) if step.name.startswith("gen") else step for step in made.steps]
    run = HandMade(folder, replace(made, steps=tuple(steps)))
    assert run.run.plan.read_text() == to_json(run.plan)
    return run


def test_a_killed_server_is_started_again(tmp_path: Path) -> None:
    made = restartable(tmp_path)
    try:
        for step in ("gen.0", "gen.1"):
            made.program(step, f"echo I am $$; {SLEEP}")
        supervisor = made.up()
        first = made.task("gen.0.0")
        wait_for(lambda: _words(made, "gen.0.0", first.pid), 60, "its words")
        os.kill(first.pid, signal.SIGKILL)
        wait_for(lambda: len(_lives(made, "gen.0.0")) == 2, 60, "another life")
        second = _lives(made, "gen.0.0")[1]
        assert [event.step for event in made.events(StepStarted)].count("gen.0") == 2
        assert (made.run.path / "withdrawn").read_text() == "gen.0\n"
        assert [event.attempt for event in made.events(Restarting)] == [1]
        made.say("canary", Rung("gen.0", "canary"))
        wait_for(lambda: made.states().count("READY") >= 3, 60, "READY again")
        log = wait_for(lambda: _words(made, "gen.0.0", second.pid), 60, "its words")
        assert log.index(f"I am {first.pid}") < log.index(f"I am {second.pid}")
        asked = control.ask(made.run, control.DRAIN, 5.0, "ctx.0")
        (refused,) = wait_for(lambda: made.events(ControlRefused), 60, "an answer")
        assert refused.request == asked and "is the last context server" in refused.reason
        control.ask(made.run, control.DOWN)
        assert supervisor.wait(60) == 0
        made.nothing_left()
    finally:
        made.clean()


def _lives(made: HandMade, name: str) -> list[TaskStarted]:
    return [event for event in made.events(TaskStarted) if event.name == name]


def _words(made: HandMade, name: str, pid: int) -> str:
    text = made.run.log(name).read_text()
    return text if f"I am {pid}" in text else ""


def started(pid: int, at: float) -> Record:
    return Record(at, "task.gen.0.0", TaskStarted("gen.0", "gen.0.0", "gen.0", 0, "here", pid, 1, pid + 1, 1))


def exited(pid: int, at: float) -> Record:
    return Record(at, "task.gen.0.0", TaskExited("gen.0", "gen.0.0", pid, 1, None))


def test_an_end_belongs_to_one_life(monkeypatch: pytest.MonkeyPatch) -> None:
    lives, now = Lives(make_plan("per_server").steps), [100.0]
    monkeypatch.setattr("trtdist.supervisor.lives.time.time", lambda: now[0])
    lives.begin("gen.0")
    assert lives.concerns(started(7, 101.0))
    assert not lives.concerns(exited(8, 102.0))
    assert lives.concerns(exited(7, 103.0))
    now[0] = 110.0
    lives.begin("gen.0")
    assert not lives.concerns(exited(7, 103.0))
    assert not lives.concerns(started(7, 101.0))
    assert not lives.concerns(Record(104.0, "task.gen.0.0", TaskRefused("gen.0", "gen.0.0", "belongs elsewhere")))
    # Its launcher may be seen to have gone, and be started again, before it is.
    assert not lives.has(started(7, 101.0).event)  # type: ignore[arg-type]
    assert lives.concerns(started(9, 111.0))
    assert not lives.concerns(exited(7, 112.0))
    assert not lives.has(started(7, 101.0).event)  # type: ignore[arg-type]
    assert lives.concerns(exited(9, 113.0))
    assert lives.concerns(Record(1.0, "router", Rung("router", "process")))


def test_a_rung_belongs_to_one_life(monkeypatch: pytest.MonkeyPatch) -> None:
    lives, now = Lives(make_plan("per_server").steps), [100.0]
    monkeypatch.setattr("trtdist.supervisor.lives.time.time", lambda: now[0])

    def counts(at: float, rung: str, detail: str = "") -> bool:
        return lives.concerns(Record(at, "someone", Rung("gen.0", rung, detail)))

    lives.begin("gen.0")
    assert counts(102.0, "registered", "a:1") and counts(103.0, "canary", "a:1") and counts(104.0, "canary")
    now[0] = 110.0
    lives.begin("gen.0")
    assert not counts(109.0, "canary") and not counts(109.0, "registered", "a:2")
    # A canary program that is started again finds in etcd what has not left it yet.
    assert not counts(111.0, "canary", "a:1") and not counts(111.0, "canary", "a:2")
    # Its file may be seen before the server's own.
    assert counts(113.0, "canary", "a:3") and counts(112.0, "registered", "a:3") and counts(114.0, "canary")
    now[0] = 120.0
    lives.begin("gen.0")
    assert not counts(121.0, "canary", "a:3") and counts(121.0, "canary", "a:4")
