"""The real supervisor starts real processes again, and what an earlier life says late is not held against a later."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

from tests.supervisor.runs import SLEEP, HandMade, wait_for
from tests.supervisor.simulation import make_plan
from trtdist.events import (
    ControlRefused,
    Event,
    Record,
    Restarting,
    Rung,
    RunState,
    StepStarted,
    TaskExited,
    TaskRefused,
    TaskStarted,
)
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


def test_a_server_that_is_started_again_is_heard_although_its_clock_was_set_back(tmp_path: Path) -> None:
    """And once more, with the clock as it was."""
    made = restartable(tmp_path)
    try:
        behind = tmp_path / "behind"
        line = made.run.scripts / f"{made.plan.step('gen.0').stem}.local.sh"
        line.write_text(f"if [[ -e {behind} ]]; then export TRTDIST_CLOCK_AHEAD=600; fi\n{line.read_text()}")
        supervisor = made.up()
        for life, end in ((2, behind.touch), (3, behind.unlink)):
            end()
            os.kill(_lives(made, "gen.0.0")[-1].pid, signal.SIGKILL)
            wait_for(lambda life=life: len(_lives(made, "gen.0.0")) == life, 60, "another life")
            made.say("canary", Rung("gen.0", "canary"))
            wait_for(lambda: made.events(RunState)[-1] == RunState("READY"), 60, "READY again")
        assert {event.reason for event in made.events(Restarting)} == {"gen.0.0 (step gen.0) was killed by SIGKILL"}
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


def record(event: Event, life: str = "") -> Record:
    return Record(100.0, "someone", event, life)


def started(pid: int, life: str) -> Record:
    return record(TaskStarted("gen.0", "gen.0.0", "gen.0", 0, "here", pid, 1, pid + 1, 1), life)


def exited(pid: int, life: str) -> Record:
    return record(TaskExited("gen.0", "gen.0.0", pid, 1, None), life)


def test_an_end_belongs_to_one_life() -> None:
    lives = Lives(make_plan("per_server").steps)
    first = lives.begin("gen.0")
    assert lives.concerns(started(7, first))
    assert not lives.concerns(exited(8, first))
    assert lives.concerns(exited(7, first))
    second = lives.begin("gen.0")
    assert not lives.concerns(exited(7, first))
    assert not lives.concerns(started(7, first))
    assert not lives.concerns(record(TaskRefused("gen.0", "gen.0.0", "belongs elsewhere"), first))
    # Its launcher may be seen to have gone, and be started again, before it is.
    assert not lives.has(started(7, first).event)  # type: ignore[arg-type]
    assert lives.concerns(started(9, second))
    assert not lives.concerns(exited(7, first))
    assert not lives.has(started(7, first).event)  # type: ignore[arg-type]
    assert lives.concerns(exited(9, second))
    assert lives.concerns(record(Rung("router", "process")))


def test_a_life_that_another_supervisor_has_begun_is_over() -> None:
    steps = make_plan("per_server").steps
    before, lives = Lives(steps).begin("gen.0"), Lives(steps)
    assert not lives.concerns(started(7, before))
    assert lives.concerns(started(7, lives.begin("gen.0")))
    assert not lives.concerns(started(8, before))


def test_a_rung_belongs_to_one_life() -> None:
    lives = Lives(make_plan("per_server").steps)
    canary = lives.begin("canary")

    def counts(life: str, rung: str, detail: str = "") -> bool:
        return lives.concerns(record(Rung("gen.0", rung, detail), life))

    first = lives.begin("gen.0")
    assert counts(first, "registered", "a:1") and counts(canary, "canary", "a:1") and counts(canary, "canary", "a:0")
    second = lives.begin("gen.0")
    assert not counts(first, "engine") and not counts(first, "registered", "a:2")
    # A canary program that is started again finds in etcd what has not left it yet.
    canary = lives.begin("canary")
    assert not any(counts(canary, "canary", key) for key in ("a:0", "a:1", "a:2"))
    # Its file may be seen before the server's own.
    assert counts(canary, "canary", "a:3") and counts(second, "registered", "a:3") and counts(canary, "canary")
    third = lives.begin("gen.0")
    assert not counts(canary, "canary", "a:3") and counts(canary, "canary", "a:4") and counts(third, "engine")
    # Over HTTP there are no keys.
    assert not counts(canary, "canary", second) and counts(canary, "canary", third)
