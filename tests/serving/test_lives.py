"""Lives of programs by the events of a run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.planning.topologies import section, topology
from trtdist.events import (
    Drained,
    Event,
    EventWriter,
    Ready,
    Restarting,
    Rung,
    StepStarted,
    SupervisorStarted,
    TaskStarted,
    WrittenOff,
)
from trtdist.planning import Target, plan
from trtdist.serving.lives import Lives
from trtdist.serving.waiting import first_of, within

RESTARTING = Restarting("gen.0", 1, 3, "gen.0.0 died")


def started(name: str, server: str = "") -> TaskStarted:
    return TaskStarted(server or name, name, server, 0, "node1", 7, 7, 6, 6)


def of(lives: Lives, name: str) -> str:
    """The life of a program by what is told now."""
    lives.read()
    return lives.of(name)


class Events:
    """A folder of events, each a second after the last one by the clock of its writer, which may be set."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        self.now = 1000.0
        self._begun = 0

    def add(self, writer: str, event: Event, life: str = "") -> None:
        self.now += 1.0
        self._monkeypatch.setattr("trtdist.events._now", lambda: self.now)
        self._monkeypatch.setenv("TRTDIST_LIFE", life)
        one = EventWriter(self.folder / f"{writer}.jsonl")
        one.write(event)
        one.close()

    def begin(self, name: str) -> str:
        """A supervisor starts a server, or what is none; returns the name of this life."""
        self._begun += 1
        life = f"{name} {self._begun}"
        self.add("supervisor", StepStarted(name, 7, 7, life))
        task = started(f"{name}.0", name) if "." in name else started(name)
        self.add(f"task.{task.name}", task, life)
        return life


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Events:
    return Events(tmp_path, monkeypatch)


@pytest.fixture
def lives(events: Events) -> Lives:
    given = topology(
        runtime="trtllm-serve", launch="per_server", context_servers=section(), generation_servers=section(1, 2)
    )
    return Lives(events.folder, plan(given, Target.LOCAL))


def test_nobody_lives_who_has_not_begun(lives: Lives, events: Events) -> None:
    assert of(lives, "gen.0") == of(lives, "router") == ""
    events.add("supervisor", StepStarted("gen.0", 7, 7, "gen.0 x"))
    events.add("task.gen.0.1", started("gen.0.1", "gen.0"), "gen.0 x")
    assert of(lives, "gen.0") == ""
    events.add("task.gen.0.0", started("gen.0.0", "gen.0"), "gen.0 x")
    assert of(lives, "gen.0") == "gen.0 x" and of(lives, "ctx.0") == ""
    assert events.begin("router") == of(lives, "router")


def test_what_a_person_has_started_lives(lives: Lives, events: Events) -> None:
    events.add("task.gen.0.0", started("gen.0.0", "gen.0"))
    assert of(lives, "gen.0") == "node1 7 7"


@pytest.mark.parametrize("set_back", [0.0, 600.0])
def test_who_is_started_again_has_another_life(lives: Lives, events: Events, set_back: float) -> None:
    """Whatever the clock says."""
    first = events.begin("gen.0")
    assert of(lives, "gen.0") == first
    events.add("supervisor", RESTARTING)
    assert of(lives, "gen.0") == ""
    events.now -= set_back
    again = events.begin("gen.0")
    assert of(lives, "gen.0") == again != first


def test_a_start_that_is_seen_late_is_none_of_the_present_life(lives: Lives, events: Events) -> None:
    """Files of other nodes show up later than that of the supervisor."""
    for life in ("gen.0 x", "gen.0 y"):
        events.add("supervisor", StepStarted("gen.0", 7, 7, life))
    events.add("task.gen.0.0", started("gen.0.0", "gen.0"), "gen.0 x")
    assert of(lives, "gen.0") == ""
    events.add("task.gen.0.0", started("gen.0.0", "gen.0"), "gen.0 y")
    assert of(lives, "gen.0") == "gen.0 y"


def test_what_is_read_at_once_counts_alike(lives: Lives, events: Events) -> None:
    events.begin("gen.0")
    events.add("supervisor", RESTARTING)
    assert of(lives, "gen.0") == ""
    again = events.begin("gen.0")
    events.add("supervisor", Restarting("ctx.0", 1, 3, "ctx.0.0 died"))
    assert of(lives, "gen.0") == again


@pytest.mark.parametrize("end", [WrittenOff("gen.0", "it died"), Drained("gen.0", "it has left")])
def test_who_left_for_good_is_not_there(lives: Lives, events: Events, end: Event) -> None:
    events.begin("gen.0")
    events.add("supervisor", end)
    assert of(lives, "gen.0") == ""


def test_a_question_reads_no_file(lives: Lives, events: Events) -> None:
    """There may be thousands of files, and it is asked for each server all the time."""
    born = events.begin("gen.0")
    assert lives.of("gen.0") == ""
    lives.read()
    assert lives.of("gen.0") == born


def test_lives_are_followed(lives: Lives, events: Events) -> None:
    async def told(name: str) -> str:
        while not lives.of(name):
            await asyncio.sleep(0.01)
        return name

    async def main() -> None:
        for name in ("gen.0", "ctx.0"):
            events.begin(name)
            assert await within(60.0, first_of(lives.follow(), told(name))) == name

    asyncio.run(main())


def test_lives_that_were_proven_are_known_once_the_run_was_ready(lives: Lives, events: Events) -> None:
    born = {name: events.begin(name) for name in ("ctx.0", "gen.0")}
    events.begin("router")
    for name, life in born.items():
        events.add("canary", Rung(name, "canary", life))
        lives.read()
        assert lives.proven() == {}
    events.add("canary", Ready(1))
    events.add("supervisor", RESTARTING)
    lives.read()
    assert lives.proven() == {**dict.fromkeys(lives.proven(), ""), "ctx.0": born["ctx.0"]}
    assert {"ctx.0", "gen.0", "router"} <= set(lives.proven())
    # It runs again, and was not asked in this life.
    events.begin("gen.0")
    lives.read()
    assert lives.proven()["gen.0"] == ""
    # In a job that is queued again all of it begins anew.
    events.add("supervisor", SupervisorStarted("node1", 8, 8, "job 7"))
    lives.read()
    assert lives.proven() == {} and lives.of("ctx.0") == ""
