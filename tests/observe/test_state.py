"""The state of a run is a pure function: whatever the events, it never claims what cannot be true."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.observe.fake_run import make_plan, reconciled
from trtdist.events import (
    RUNGS,
    ControlTaken,
    Event,
    Ready,
    Record,
    Rung,
    RunState,
    StepExited,
    StepStarted,
    SupervisorStarted,
    TaskExited,
    TaskStarted,
    WrittenOff,
)
from trtdist.observe.state import FINAL_STATES, RUN_STATES, TASK_STATES, Machine, RunStatus
from trtdist.process import ProcessId

PLAN = make_plan()
TASKS = ("nats", "etcd", "ctx.0.0", "ctx.0.1", "gen.0.0", "router", "canary")
NOW = 1000.0
SUPERVISOR, LAUNCHER = 1, 2


@dataclass
class Story:
    """Events at growing times, and who is still alive: a pid is 100 + the place of the task, its shim's is 100 more."""

    records: list[Record] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)
    clock: float = 100.0

    def tell(self, writer: str, event: Event) -> Story:
        self.clock += 1.0
        self.records.append(Record(self.clock, writer, event))
        return self

    def start(self, name: str) -> Story:
        pid = 100 + TASKS.index(name)
        rank = name.count(".") == 2
        server = name.rpartition(".")[0] if rank else ""
        step = "workers" if rank else name
        return self.tell(f"task.{name}", TaskStarted(step, name, server, 0, "host", pid, 1, pid + 100, 1))

    def exit(self, name: str, code: int | None = 0, signal: int | None = None, orphan_of: int = 0) -> Story:
        pid = 100 + TASKS.index(name)
        self.dead |= {pid, pid + 100}
        return self.tell(f"task.{name}", TaskExited("workers", name, pid, code, signal, orphan_of))

    def vanish(self, name: str) -> Story:
        pid = 100 + TASKS.index(name)
        self.dead |= {pid, pid + 100}
        return self

    def up(self) -> Story:
        self.tell("supervisor", SupervisorStarted("host", SUPERVISOR, 1)).tell("supervisor", RunState("STARTING"))
        self.tell("supervisor", StepStarted("workers", LAUNCHER, 1))
        for name in TASKS:
            self.start(name)
        for name in ("nats", "etcd", "router"):
            self.tell("canary", Rung(name, "answering"))
        for name in ("ctx.0", "gen.0"):
            self.tell("canary", Rung(name, "canary"))
        return self.exit("canary").tell("canary", Ready(2)).tell("supervisor", RunState("READY"))

    def status(self, verdict: dict[str, object] | None = None, booted: float = 0.0) -> RunStatus:
        def alive(host: str, process: ProcessId) -> bool | None:
            return process.pid not in self.dead if host == "host" else None

        return reconciled(PLAN, self.records, verdict, Machine(alive, NOW, 990.0, booted))


def states(status: RunStatus) -> dict[str, str]:
    return {each.name: each.state for each in [*status.services, *status.servers, *status.ranks]}


def test_ready() -> None:
    status = Story().up().status()
    assert status.state == "READY"
    assert states(status)["canary"] == "DONE"
    assert {state for name, state in states(status).items() if name != "canary"} == {"READY"}


def test_a_canary_that_was_stopped_is_not_done() -> None:
    """It ends with 0 when it is asked to, whether it had passed or not."""
    story = Story().tell("supervisor", SupervisorStarted("host", SUPERVISOR, 1))
    for name in TASKS:
        story.start(name)
    story.exit("gen.0.0", 1).tell("supervisor", RunState("FAILED")).exit("canary")
    assert states(story.status())["canary"] == "STOPPED"


def test_the_earliest_exit_is_named_and_those_that_follow_are_not_blamed() -> None:
    status = Story().up().exit("ctx.0.1", None, 9).exit("ctx.0.0", None, 15).exit("gen.0.0", 1).status()
    assert status.state == "FAILED"
    assert status.failure is not None
    assert status.failure.name == "ctx.0.1"
    assert status.failure.reason == "ctx.0.1 (step workers) was killed by SIGKILL"
    assert status.ended is None, "the supervisor still takes the rest down"
    assert states(status)["ctx.0.1"] == "FAILED"
    assert states(status)["gen.0.0"] == "STOPPED"


@pytest.mark.parametrize(("code", "number", "how"), [(None, 9, "was killed by SIGKILL"), (1, None, "ended with exit")])
def test_ranks_that_lost_their_launcher_come_after_it(code: int | None, number: int | None, how: str) -> None:
    story = Story().up().exit("ctx.0.0", None, 9, LAUNCHER).exit("gen.0.0", None, 9, LAUNCHER)
    failure = story.tell("supervisor", StepExited("workers", code, number)).status().failure
    assert failure is not None
    assert failure.reason.startswith(f"workers ended as a whole: its launcher {how}")
    assert (failure.name, failure.log) == ("workers", "logs/launch.workers.log")


def test_a_rank_comes_before_those_that_lost_the_launcher_which_it_took_along() -> None:
    story = Story().up().exit("gen.0.0", None, 9).exit("ctx.0.0", None, 9, LAUNCHER)
    failure = story.tell("supervisor", StepExited("workers", 137, None)).status().failure
    assert failure is not None and failure.name == "gen.0.0"


def test_a_launcher_that_is_started_again_has_not_ended() -> None:
    story = Story().up().exit("ctx.0.0", None, 9, LAUNCHER).tell("supervisor", StepExited("workers", 1, None))
    story.tell("supervisor", StepStarted("workers", 3, 1)).start("ctx.0.0")
    story.dead.clear()
    assert (story.status().state, story.status().failure) == ("READY", None)


def test_a_death_without_which_the_run_went_on_is_not_why_its_supervisor_died() -> None:
    story = Story().up().exit("ctx.0.1", None, 9).tell("supervisor", WrittenOff("workers", "it may die"))
    story.tell("supervisor", RunState("READY")).dead.add(SUPERVISOR)
    failure = story.status().failure
    assert failure is not None and failure.name == "supervisor"


def test_an_exit_after_a_request_to_stop_is_no_failure() -> None:
    story = Story().up().tell("supervisor", ControlTaken("1-2.json", "down"))
    status = story.tell("supervisor", RunState("STOPPING")).exit("router").exit("ctx.0.0", None, 15).status()
    assert status.state == "STOPPING"
    assert status.failure is None
    assert states(status)["ctx.0.0"] == "STOPPED"
    assert states(status)["nats"] == "STOPPING"


@pytest.mark.parametrize(
    ("verdict", "lost"),
    [
        ({"state": "STOPPED", "reason": "stopped by `trtdist down`"}, set()),
        ({"state": "FAILED", "reason": "gen.0.0 died", "first": {"name": "gen.0.0", "step": "workers"}}, set()),
        (
            {"state": "FAILED", "reason": "ctx.0.1 vanished", "first": {"name": "ctx.0.1", "step": "workers"}},
            {"ctx.0.1"},
        ),
        ({"state": "TIMEOUT", "reason": "not ready", "first": {"name": "ctx.0.1", "step": None}}, set()),
        ({"state": "FAILED", "reason": "job 7 lost node2"}, {"ctx.0.0", "ctx.0.1"}),
        (None, set()),
    ],
)
def test_what_a_stop_has_killed_is_not_lost(verdict: dict[str, object] | None, lost: set[str]) -> None:
    """A shim that is killed tells no end."""
    story = Story().up().tell("supervisor", RunState(str(verdict["state"]) if verdict else "STOPPING"))
    status = story.vanish("ctx.0.0").vanish("ctx.0.1").exit("gen.0.0", None, 15).status(verdict)
    found = states(status)
    assert {name for name in ("ctx.0.0", "ctx.0.1") if found[name] == "LOST"} == lost
    assert {found[name] for name in ("ctx.0.0", "ctx.0.1") if name not in lost} <= {"STOPPED"}


def test_who_was_behind_when_the_time_was_up_did_not_end_unasked() -> None:
    story = Story().up().tell("supervisor", RunState("TIMEOUT")).exit("ctx.0.1", None, 15)
    status = story.status({"state": "TIMEOUT", "reason": "not ready", "first": {"name": "ctx.0.1", "step": None}})
    assert states(status)["ctx.0.1"] == "STOPPED"


def test_a_request_to_stop_counts_from_when_it_was_taken() -> None:
    status = Story().up().tell("supervisor", ControlTaken("1-2.json", "down")).exit("router").status()
    assert (status.state, status.failure) == ("STOPPING", None)


def test_a_request_that_is_not_to_stop_excuses_nobody() -> None:
    status = Story().up().tell("supervisor", ControlTaken("1-2.json", "dance")).exit("router").status()
    assert status.state == "FAILED"
    assert status.failure is not None
    assert status.failure.name == "router"


def test_a_program_that_ended_while_its_shim_lives_is_not_lost_yet() -> None:
    story = Story().up()
    story.dead.add(100 + TASKS.index("gen.0.0"))
    assert states(story.status())["gen.0.0"] == "READY"


def test_a_restarted_machine_loses_its_runs() -> None:
    story = Story().up()
    for name in TASKS:
        story.vanish(name)
    story.dead.add(SUPERVISOR)
    status = story.status(booted=story.clock + 1)
    assert status.state == "LOST"
    assert status.failure is not None
    assert "was restarted" in status.failure.reason


def test_a_service_that_was_started_again_counts_as_started() -> None:
    story = Story().tell("supervisor", SupervisorStarted("host", SUPERVISOR, 1))
    story.tell("supervisor", RunState("STARTING")).start("nats").exit("nats", 1)
    assert story.status().state == "STARTING"
    story.dead.clear()
    status = story.start("nats").tell("supervisor", Rung("nats", "answering")).status()
    assert states(status)["nats"] == "READY"
    assert status.failure is None


def test_a_supervisor_that_never_started() -> None:
    status = reconciled(PLAN, [], None, Machine(lambda host, process: None, 1000.0, 900.0))
    assert status.state == "FAILED"
    assert status.failure is not None
    assert "never started" in status.failure.reason


def test_a_run_that_was_started_by_hand() -> None:
    story = Story().start("nats").start("gen.0.0").start("canary")
    assert story.status().state == "MANUAL"
    status = story.tell("canary", Rung("gen.0", "canary")).tell("canary", Ready(1)).exit("canary").status()
    assert (status.state, status.failure) == ("MANUAL", None)
    found = states(status)
    assert [found[name] for name in ("nats", "gen.0", "canary", "etcd")] == ["READY", "READY", "DONE", "WAITING"]
    status = story.exit("gen.0.0", 130).exit("nats", None, 2).status()
    assert (status.state, status.failure) == ("STOPPED", None)
    assert states(status)["gen.0"] == "STOPPED"


def test_a_failed_run_has_ended_when_its_supervisor_is_gone_or_has_said_so() -> None:
    story = Story().up().exit("gen.0.0", 1).tell("supervisor", RunState("FAILED", "because"))
    assert (story.status().state, story.status().ended) == ("FAILED", None)
    assert story.status({"state": "FAILED", "time": 7.0}).ended == 7.0
    story.dead.add(SUPERVISOR)
    assert story.status().ended == story.records[-1].time


def test_a_supervisor_on_another_machine_is_believed() -> None:
    story = Story().tell("supervisor", SupervisorStarted("elsewhere", SUPERVISOR, 1))
    status = story.tell("supervisor", RunState("STARTING")).status()
    assert (status.state, status.supervisor_alive) == ("STARTING", None)


def test_left_behind() -> None:
    story = Story().up()
    story.dead.add(SUPERVISOR)
    assert states(story.status({"state": "STOPPED"}))["nats"] == "LEFT"


_EVENTS = st.one_of(
    st.builds(RunState, st.sampled_from(("STARTING", "READY", "STOPPING", "STOPPED", "FAILED"))),
    st.builds(SupervisorStarted, st.sampled_from(("host", "elsewhere")), st.just(SUPERVISOR), st.just(1)),
    st.builds(
        lambda place, host: TaskStarted("workers", TASKS[place], "", 0, host, 100 + place, 1, 200 + place, 1),
        st.integers(0, len(TASKS) - 1),
        st.sampled_from(("host", "elsewhere")),
    ),
    st.builds(
        lambda place, code, orphan_of: TaskExited("workers", TASKS[place], 100 + place, code, None, orphan_of),
        st.integers(0, len(TASKS) - 1),
        st.integers(0, 3),
        st.sampled_from((0, LAUNCHER)),
    ),
    st.builds(StepStarted, st.sampled_from(("workers", "nats")), st.just(LAUNCHER), st.just(1)),
    st.builds(StepExited, st.sampled_from(("workers", "nats", "canary")), st.integers(0, 3), st.none()),
    st.builds(Rung, st.sampled_from(("ctx.0", "gen.0", "nats", "router", "else")), st.sampled_from((*RUNGS, "odd"))),
    st.builds(ControlTaken, st.just("r"), st.just("down")),
    st.just(Ready(1)),
)
_RECORDS = st.lists(
    st.builds(Record, st.floats(100, 900), st.sampled_from(("supervisor", "task.x", "canary")), _EVENTS), max_size=30
)
_PIDS = st.sets(st.sampled_from([SUPERVISOR, *range(100, 107), *range(200, 207)]))
_VERDICTS = st.none() | st.fixed_dictionaries(
    {"state": st.sampled_from(("STOPPED", "FAILED", "INTERRUPTED", "TIMEOUT")), "reason": st.text(max_size=5)}
)


@given(_RECORDS, _PIDS, _VERDICTS)
def test_it_never_claims_what_cannot_be_true(
    records: list[Record], dead: set[int], verdict: dict[str, object] | None
) -> None:
    def alive(host: str, process: ProcessId) -> bool | None:
        return process.pid not in dead if host == "host" else None

    status = reconciled(PLAN, records, verdict, Machine(alive, NOW, 990.0))
    found = states(status)
    assert status.state in RUN_STATES
    assert set(found.values()) <= set(TASK_STATES)
    if verdict is not None:
        assert status.state == verdict["state"]
    if status.supervisor_alive is False:
        assert status.state in FINAL_STATES
    if status.state == "READY":
        assert status.failure is None
        assert "LOST" not in found.values()
    if verdict is not None or status.supervisor_alive is False:
        assert "READY" not in found.values()
        assert "STARTING" not in found.values()
    if status.state in ("FAILED", "LOST"):
        assert status.failure is not None
    for rank in status.ranks:
        told = [r.event for r in records if isinstance(r.event, TaskStarted) and r.event.name == rank.name]
        if rank.state in ("READY", "STARTING") and told and {event.host for event in told} == {"host"}:
            assert not {told[0].pid, told[0].shim_pid} <= dead


@given(_RECORDS, _PIDS, st.randoms())
def test_the_order_in_which_files_are_read_does_not_matter(
    records: list[Record], dead: set[int], random: object
) -> None:
    times = {record.time for record in records}
    if len(times) < len(records):
        return
    machine = Machine(lambda host, process: process.pid not in dead, NOW, 990.0)
    shuffled = list(records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert reconciled(PLAN, shuffled, None, machine) == reconciled(PLAN, records, None, machine)
