"""What is there and does nothing is found in a ready run, and nothing else is; with a made-up head."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

import pytest

from tests.supervisor.runs import HandMade, wait_for
from tests.supervisor.simulation import Cluster, Fault, make_plan
from trtdist.events import EngineSilent, Rung, Stalled, TaskSeen
from trtdist.rundir import RunDir
from trtdist.supervisor import facts, hangs, messages
from trtdist.supervisor.hangs import LOOKS, Hang, Hangs, awaited, culprit

PLAN = make_plan("per_server")
VIEW = {"nats": "nats", "etcd": "etcd", "router": "router", "ctx.0": "ctx.0", "gen.0": "gen.0"}


@dataclass
class Heard:
    """Head services of which some do not answer, and where some are registered."""

    silent: set[str] = field(default_factory=set)
    places: frozenset[str] | None = frozenset({"router", "ctx.0", "gen.0"})

    async def resolve(self, service: str) -> None:
        raise NotImplementedError

    async def healthy(self, service: str) -> str | None:
        return None if service in self.silent else "fake://"

    async def registered(self) -> frozenset[str] | None:
        return self.places

    async def front_answers(self) -> bool:
        return "front" not in self.silent

    async def withdraw(self, servers: Collection[str]) -> None:
        raise NotImplementedError

    async def hand_over(self, heir: RunDir) -> bool:
        raise NotImplementedError

    def port_taken(self, service: str) -> bool:
        raise NotImplementedError


@dataclass
class Scene:
    """A watch over a run of which `view` are awaited; tasks answer with what `doing` has for them."""

    head: Heard
    view: dict[str, str]
    doing: dict[str, TaskSeen] = field(default_factory=dict)
    asked: int = 0
    then: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.hangs = Hangs(PLAN, self.head, lambda: dict(self.view), self._ask)

    def _ask(self) -> None:
        self.asked += 1
        self.then()
        for name in ("nats", "etcd", "router", "ctx.0.0", "ctx.0.1", "gen.0.0"):
            self.hangs.seen(self.doing.get(name, TaskSeen("step", name, False, "waits")))

    def looks(self, times: int) -> list[Hang]:
        """What so many looks in a row find."""

        async def look() -> list[Hang]:
            return [hang for _ in range(times) for hang in await self.hangs.find()]

        return asyncio.run(look())


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(hangs, "LOOK_S", 0.0)
    return Scene(Heard(), dict(VIEW))


def stopped(name: str) -> dict[str, TaskSeen]:
    return {name: TaskSeen("step", name, False, "is stopped by a signal", 0.0, stopped=True)}


def test_a_run_that_answers_has_nothing_that_hangs(scene: Scene) -> None:
    assert scene.looks(5 * LOOKS) == []
    assert scene.asked == 0


@pytest.mark.parametrize("name", ["nats", "etcd"])
def test_a_service_that_does_not_answer_is_found_after_some_looks(scene: Scene, name: str) -> None:
    scene.head.silent = {name}
    scene.doing = stopped(name)
    assert scene.looks(LOOKS - 1) == []
    (hang,) = scene.looks(1)
    assert (hang.step, hang.reason) == (name, "hangs: it does not answer; it is stopped by a signal")
    assert (hang.death.task, hang.stall.task, hang.stall.doing) == (name, name, "is stopped by a signal")


def test_a_service_that_answers_in_between_is_well(scene: Scene) -> None:
    for _ in range(LOOKS):
        scene.head.silent = {"nats"}
        assert scene.looks(LOOKS - 1) == []
        scene.head.silent = set()
        assert scene.looks(1) == []


@pytest.mark.parametrize(("name", "task"), [("gen.0", "gen.0.0"), ("router", "router")])
def test_who_lost_its_place_in_etcd_and_is_still_there_hangs(scene: Scene, name: str, task: str) -> None:
    scene.head.places = frozenset(VIEW) - {name}
    (hang,) = scene.looks(LOOKS)
    assert (hang.stall.server, hang.death.task, hang.step) == (name, task, name)
    assert hang.reason == "hangs: it does not keep its place in etcd; it waits"


def test_nobody_is_missed_while_etcd_says_nothing(scene: Scene) -> None:
    scene.head.places = None
    assert scene.looks(3 * LOOKS) == []


def test_the_servers_are_not_blamed_for_a_service(scene: Scene) -> None:
    scene.head.silent, scene.head.places = {"etcd"}, frozenset()
    assert [hang.step for hang in scene.looks(LOOKS)] == ["etcd"]


def test_a_front_end_that_does_not_answer_is_found(scene: Scene) -> None:
    steps = (*PLAN.steps, replace(PLAN.step("router"), number=9, name="front", kind="front"))
    scene.view["front"] = "front"
    scene.hangs = Hangs(replace(PLAN, steps=steps), scene.head, lambda: scene.view, scene._ask)
    scene.head.silent = {"front"}
    scene.doing = stopped("front")
    scene.then = lambda: scene.hangs.seen(scene.doing["front"])
    assert [hang.death.task for hang in scene.looks(LOOKS)] == ["front"]


def test_what_falls_or_comes_back_meanwhile_does_not_hang(scene: Scene) -> None:
    scene.head.places = frozenset({"router", "ctx.0"})
    scene.then = lambda: scene.view.pop("gen.0", None) and None
    assert scene.looks(LOOKS) == []
    scene.head.silent = {"nats"}
    scene.then = lambda: scene.head.silent.clear()
    assert scene.looks(LOOKS) == []


def test_servers_that_are_not_ours_have_no_place_in_etcd(scene: Scene) -> None:
    scene.hangs = Hangs(replace(PLAN, runtime="trtllm-serve"), scene.head, lambda: scene.view, scene._ask)
    scene.head.places = frozenset()
    assert scene.looks(3 * LOOKS) == []


def test_an_engine_that_gives_nothing_names_the_rank_that_is_behind(scene: Scene) -> None:
    scene.doing = stopped("ctx.0.1")
    scene.hangs.engine_silent(EngineSilent("ctx.0", "key", 2, 300.0))
    (hang,) = scene.looks(1)
    assert hang.stall == facts.Stall("ctx.0", "ctx.0.1", 300.0, "is behind the others", "is stopped by a signal")
    assert (hang.step, hang.death.task) == ("ctx.0", "ctx.0.1")
    assert hang.reason == (
        "is behind the others; it is stopped by a signal: 2 requests wait for the engine of ctx.0, which has given"
        " nothing for 300 s"
    )
    assert scene.looks(1) == [], "told once"


def test_who_keeps_another_server_waiting_is_named_in_its_place(scene: Scene) -> None:
    scene.doing = stopped("ctx.0.1")
    scene.hangs.engine_silent(EngineSilent("gen.0", "key", 1, 300.0))
    (hang,) = scene.looks(1)
    assert (hang.stall.server, hang.death.task, hang.step) == ("gen.0", "ctx.0.1", "ctx.0")
    assert hang.reason.startswith("keeps the others waiting; it is stopped by a signal: a request waits for the engine")


def test_who_waits_is_told_of_after_who_keeps_it_waiting(scene: Scene) -> None:
    scene.doing = stopped("ctx.0.1")
    for name in ("gen.0", "ctx.0"):
        scene.hangs.engine_silent(EngineSilent(name, "key", 1, 300.0))
    assert [(hang.stall.server, hang.death.task) for hang in scene.looks(1)] == [
        ("ctx.0", "ctx.0.1"),
        ("gen.0", "ctx.0.1"),
    ]


def test_the_silence_of_a_server_that_has_fallen_is_dropped(scene: Scene) -> None:
    del scene.view["gen.0"]
    scene.hangs.engine_silent(EngineSilent("gen.0", "key", 1, 300.0))
    assert scene.looks(1) == []


def test_a_death_for_want_of_a_service_comes_after_that_of_the_service(scene: Scene) -> None:
    assert scene.hangs.services() == []
    scene.head.silent = {"etcd"}
    scene.looks(1)
    (death,) = scene.hangs.services()
    assert (death.step, death.reason) == ("etcd", "hangs: it does not answer")
    cluster = Cluster(make_plan("per_server"))
    cluster.run([], until=5.0)
    cluster.feed(death)
    cluster.feed(messages.TaskEnded("ctx.0", "ctx.0.0", 1, None, death.at + 5.0))
    cluster.run([])
    assert cluster.outcome.reason == "etcd hangs: it does not answer"


def seen(**cpu: float) -> dict[str, TaskSeen]:
    return {name: TaskSeen("s", name, False, "", share) for name, share in cpu.items()}


@pytest.mark.parametrize(
    ("given", "task", "how"),
    [
        ({"a": 1.0, "b": 0.0, "c": 1.0}, "b", "is behind the others"),
        ({"a": 0.0, "b": 1.0, "c": 1.0}, "a", "is behind the others"),
        ({"a": 0.0, "b": 0.0, "c": 1.0}, "a", "stands still with the others"),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, "a", "stands still with the others"),
        ({"a": 1.0, "b": 1.0}, "c", "is behind the others"),
        ({}, "a", "stands still with the others"),
    ],
)
def test_the_rank_that_does_not_wait_for_the_others_is_behind(given: dict[str, float], task: str, how: str) -> None:
    assert culprit(["a", "b", "c"], ["d"], seen(**given)) == (task, how)


def test_the_only_rank_of_a_server_stands_still() -> None:
    assert culprit(["a"], [], seen(a=0.0)) == ("a", "stands still")


def test_who_is_awaited_in_the_phases_of_a_run() -> None:
    cluster = Cluster(make_plan("per_server", (1, 1, 1)))
    assert awaited(cluster.state) == {}
    cluster.run([], until=5.0)
    for name in ("ctx.0", "gen.0", "gen.1", "router"):
        cluster.feed(messages.Reached(name, "registered"))
    everyone = {"nats", "etcd", "router", "ctx.0", "gen.0", "gen.1"}
    assert set(awaited(cluster.state)) == everyone
    cluster.run([Fault(5.5, "drain", "gen.1")], until=5.6)
    assert set(awaited(cluster.state)) == everyone - {"gen.1"}
    cluster.feed(messages.StopAsked(False, None, "down"))
    assert awaited(cluster.state) == {}


def test_a_server_that_hangs_is_told_and_fails_the_run(made: HandMade) -> None:
    supervisor = made.up()
    for name in ("ctx.0", "gen.0", "router"):
        made.say(f"server.{name}", Rung(name, "registered"))
    (made.run.path / "registered").write_text("router ctx.0")
    wait_for(lambda: (made.run.stacks / "ask").exists(), 60, "the question")
    for name in ("nats", "etcd", "router", "ctx.0.0", "ctx.0.1"):
        made.say(f"look.{name}", TaskSeen("step", name, False, "waits"))
    made.say("look.gen.0.0", TaskSeen("workers", "gen.0.0", False, "is stopped by a signal", 0.0, stopped=True))
    assert supervisor.wait(60) == 1
    (stall,) = made.events(Stalled)
    assert (stall.task, stall.how) == ("gen.0.0", "does not keep its place in etcd")
    verdict = made.verdict()
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", "gen.0.0")
    assert verdict["reason"] == (
        "gen.0.0 (step workers) hangs: it does not keep its place in etcd; it is stopped by a signal"
    )
