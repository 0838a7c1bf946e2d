"""What the state machine does about deaths that a run may survive, in virtual time."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.supervisor.simulation import EPOCH, NEVER, Behaviour, Cluster, Fault, make_plan
from trtdist.plan import Plan
from trtdist.supervisor import facts, messages
from trtdist.supervisor.machine import next_deadline
from trtdist.supervisor.state import OVER, READY

SERVERS = ("ctx.0", "gen.0", "gen.1")


def plan(launch: str = "per_server", restarts: int = 3, critical: bool = True, also: tuple[str, ...] = ()) -> Plan:
    """One context and two generation servers, all of them treated alike, and others by their names."""
    made = make_plan(launch, (1, 1, 1))
    steps = []
    for step in made.steps:
        known = step.kind in ("workers", "canary") or step.name in also
        step = replace(step, restarts=restarts, backoff=5.0) if known else step
        steps.append(replace(step, critical=critical) if step.kind == "workers" else step)
    return replace(made, steps=tuple(steps))


def life(*faults: Fault, made: Plan | None = None, until: float = 200.0, **given: object) -> Cluster:
    cluster = Cluster(plan() if made is None else made, **given)  # type: ignore[arg-type]
    cluster.run(list(faults), until=until)
    return cluster


def at(cluster: Cluster, kind: type, step: str) -> list[float]:
    return [when for when, action in cluster.log if isinstance(action, kind) and getattr(action, "step", "") == step]


def told(cluster: Cluster) -> list[tuple[str, str]]:
    return [(a.state, a.detail) for a in cluster.actions(messages.Announce)]  # type: ignore[union-attr]


def test_a_server_is_withdrawn_at_once_and_starts_again_alone() -> None:
    cluster = life(Fault(5.0, "kill_task", "gen.0.0"))
    assert at(cluster, messages.Withdraw, "gen.0") == [5.0]
    first, again = at(cluster, messages.Start, "gen.0")
    assert first < 5.0 < again < 6.0
    assert all(len(at(cluster, messages.Start, name)) == 1 for name in ("ctx.0", "gen.1", "router", "nats", "etcd"))
    assert told(cluster) == [
        ("STARTING", ""),
        ("READY", ""),
        ("READY", "degraded: gen.0 is being restarted"),
        ("READY", "degraded: gen.0 is being restarted (1 of 3)"),
        ("READY", ""),
    ]
    (restarting,) = cluster.actions(messages.Restarting)
    assert restarting == messages.Restarting("gen.0", 1, 3, "gen.0.0 (step gen.0) was killed by SIGKILL", 0.0)


def test_pauses_double_and_the_first_cause_is_kept_when_restarts_run_out() -> None:
    dying = {"gen.1": Behaviour(dies_at=1.0)}
    cluster = life(Fault(2.5, "kill_task", "gen.0.0"), behaviours=dying)
    starts = at(cluster, messages.Start, "gen.1")
    assert len(starts) == 4
    pauses = [round(later - earlier - 1.0 - 0.15, 2) for earlier, later in zip(starts, starts[1:], strict=False)]
    assert pauses == [0.0, 5.0, 10.0]
    assert cluster.outcome.first is not None
    assert (cluster.outcome.first.name, cluster.outcome.first.code) == ("gen.1.0", 1)
    assert cluster.outcome.first.at == pytest.approx(EPOCH + starts[0] + 1.0)
    assert cluster.outcome.reason == (
        "gen.1.0 (step gen.1) ended with exit code 1 and nobody had asked it to, "
        "and gen.1 was restarted 3 times in vain"
    )


def test_a_server_is_back_although_it_is_heard_late_that_it_has_registered() -> None:
    cluster = life(Fault(5.0, "kill_task", "gen.0.0"), made=plan("mpi_world"), until=5.3)
    for name in SERVERS:
        for rung in ("canary", "registered"):
            cluster.feed(messages.Reached(name, rung))
    assert told(cluster)[-1] == ("READY", "")


def test_nothing_is_decided_about_a_death_in_a_stop() -> None:
    slow = {"gen.1": Behaviour(stops_after=3.0)}
    cluster = life(Fault(5.0, "kill_task", "gen.0.0"), Fault(5.1, "down", grace=30.0), behaviours=slow)
    assert cluster.outcome.state == "STOPPED"
    assert cluster.actions(messages.Restarting) == [] == cluster.actions(messages.Kill)


def test_a_canary_program_that_ends_with_0_is_started_again_where_it_proves_who_comes_back() -> None:
    cluster = life(Fault(5.0, "leave", "canary"))
    assert len(at(cluster, messages.Start, "canary")) == 2
    assert cluster.state.phase == READY


def test_a_canary_program_that_is_to_repeat_its_prompts_may_not_end() -> None:
    made = make_plan("per_server")
    made = replace(made, canary=replace(made.canary, interval=30.0))
    cluster = life(made=made)
    assert cluster.outcome.reason == "canary ended with exit code 0 and nobody had asked it to"


def test_a_world_starts_again_as_a_whole() -> None:
    cluster = life(Fault(5.0, "kill_task", "gen.0.0"), made=plan("mpi_world"))
    assert len(at(cluster, messages.Start, "workers")) == 2
    assert told(cluster)[2:] == [
        ("STARTING", "no requests are answered: workers is being restarted"),
        ("STARTING", "no requests are answered: workers is being restarted (1 of 3)"),
        ("READY", ""),
    ]


def test_what_is_heard_late_of_one_life_does_not_count_for_the_next() -> None:
    cluster = life(Fault(5.0, "kill_task", "gen.0.0"), until=5.05)
    cluster.behaviours["gen.0"] = Behaviour(up_after=NEVER)
    cluster.feed(messages.Reached("gen.0", "canary"))
    cluster.run([], until=20.0)
    assert len(at(cluster, messages.Start, "gen.0")) == 2
    assert told(cluster)[-1] == ("READY", "degraded: gen.0 is being restarted (1 of 3)")


@pytest.mark.parametrize("service", ["nats", "etcd", "router"])
def test_a_service_starts_again_on_its_port(service: str) -> None:
    cluster = life(Fault(5.0, "kill_task", service), made=plan(also=(service,)))
    assert len(at(cluster, messages.Start, service)) == 2
    assert len(cluster.actions(messages.Resolve)) == 1
    assert cluster.state.phase == READY
    assert told(cluster)[-1] == ("READY", "")


def test_a_server_that_may_die_is_gone_without_the_run() -> None:
    cluster = life(Fault(5.0, "kill_task", "gen.0.0"), made=plan(restarts=0, critical=False))
    assert cluster.state.phase == READY
    (gone,) = cluster.actions(messages.WrittenOff)
    assert gone == messages.WrittenOff("gen.0", "gen.0.0 (step gen.0) was killed by SIGKILL")
    assert told(cluster)[-1] == ("READY", "degraded: gen.0 is gone")
    assert next_deadline(cluster.state) is None


@pytest.mark.parametrize(
    ("faults", "culprit"),
    [
        ([Fault(5.0, "kill_task", "ctx.0.0")], "ctx.0.0"),
        ([Fault(5.0, "kill_task", "gen.0.0"), Fault(9.0, "kill_task", "gen.1.0")], "gen.1.0"),
        ([Fault(5.0, "kill_task", "gen.0.0"), Fault(5.01, "kill_task", "gen.1.0")], None),
        ([Fault(5.0, "kill_task", "nats")], "nats"),
    ],
)
def test_the_run_fails_without_a_server_of_each_role(faults: list[Fault], culprit: str | None) -> None:
    cluster = life(*faults, made=plan(restarts=0, critical=False))
    assert cluster.outcome.state == "FAILED"
    assert cluster.outcome.first is not None
    assert culprit in (cluster.outcome.first.name, None)


def test_a_server_that_may_die_is_needed_until_the_run_is_ready() -> None:
    cluster = life(made=plan(restarts=0, critical=False), behaviours={"gen.0": Behaviour(dies_at=0.1)})
    assert cluster.outcome.state == "FAILED"


def test_a_server_that_does_not_come_back_in_time_has_died_again() -> None:
    limits = facts.Settings(ready_timeout=30.0)
    cluster = Cluster(plan(restarts=1), limits)
    cluster.run([Fault(5.0, "kill_task", "gen.0.0")], until=5.1)
    cluster.behaviours["gen.0"] = Behaviour(up_after=NEVER)
    cluster.run([], until=100.0)
    assert at(cluster, messages.Kill, "gen.0") != []
    assert "gen.0 was restarted once in vain; last, gen.0 was started again and did not serve within 30 s" in (
        cluster.outcome.reason
    )


def test_restarts_count_anew_after_a_while_of_service() -> None:
    kills = [Fault(5.0 + 700 * number, "kill_task", "gen.0.0") for number in range(5)]
    cluster = life(*kills, made=plan(restarts=1), until=4000.0)
    assert [action.attempt for action in cluster.actions(messages.Restarting)] == [1] * 5  # type: ignore[union-attr]
    assert cluster.state.phase == READY


def test_nothing_is_started_again_while_a_signal_is_in_doubt() -> None:
    cluster = Cluster(plan())
    cluster.run([Fault(5.0, "kill_task", "gen.0.0"), Fault(5.01, "signal"), Fault(5.9, "everyone")])
    assert len(at(cluster, messages.Start, "gen.0")) == 1
    assert cluster.outcome.state == "INTERRUPTED"


def test_a_server_moves_before_it_starts_where_there_are_spares() -> None:
    made = plan()
    made = replace(made, allocation=replace(made.allocation, nodes=2))
    cluster = life(Fault(5.0, "kill_task", "gen.0.0"), made=made)
    (place,) = at(cluster, messages.Place, "gen.0")
    assert at(cluster, messages.Withdraw, "gen.0")[0] < place < at(cluster, messages.Start, "gen.0")[1]


def test_a_drained_server_leaves_and_the_run_stays() -> None:
    cluster = life(Fault(5.0, "drain", "gen.0", 20.0), behaviours={"gen.0": Behaviour(stops_after=7.0)})
    signals = [action for action in cluster.actions(messages.Signal) if action.step == "gen.0"]  # type: ignore[union-attr]
    assert signals == [messages.Signal("gen.0", signal.SIGTERM, 20.0)]
    assert at(cluster, messages.Drained, "gen.0") == [12.0]
    assert len(at(cluster, messages.Start, "gen.0")) == 1
    assert told(cluster)[-1] == ("READY", "degraded: gen.0 was drained")


def test_what_does_not_finish_in_time_is_killed() -> None:
    stuck = {"gen.0": Behaviour(stops_after=NEVER)}
    cluster = life(Fault(5.0, "drain", "gen.0", 60.0), Fault(6.0, "drain", "gen.0", 3.0), behaviours=stuck)
    assert at(cluster, messages.Kill, "gen.0") == [9.0]
    (drained,) = cluster.actions(messages.Drained)
    assert drained.reason.endswith("did not finish its requests in time and was killed")  # type: ignore[union-attr]


def test_what_not_even_ends_when_it_is_killed_is_given_up() -> None:
    stuck = {"gen.0": Behaviour(stops_after=NEVER, killed_after=NEVER)}
    cluster = life(Fault(5.0, "drain", "gen.0", 3.0), Fault(50.0, "down"), behaviours=stuck)
    assert at(cluster, messages.Kill, "gen.0") == [8.0]
    (given_up,) = at(cluster, messages.Drained, "gen.0")
    assert 8.0 < given_up < 20.0
    assert cluster.outcome.state == "STOPPED"
    assert cluster.log[-1][0] < 55.0


def test_a_server_that_is_coming_back_may_be_drained() -> None:
    cluster = life(Fault(5.0, "kill_task", "gen.0.0"), until=5.05)
    cluster.behaviours["gen.0"] = Behaviour(up_after=NEVER, stops_after=NEVER, killed_after=NEVER)
    cluster.run([Fault(10.0, "drain", "gen.0", 3600.0)], until=3000.0)
    assert len(at(cluster, messages.Start, "gen.0")) == 2
    assert told(cluster)[-1] == ("READY", "degraded: gen.0 is being drained")


@pytest.mark.parametrize(
    ("server", "launch", "when", "reason"),
    [
        ("ctx.0", "per_server", 5.0, "ctx.0 is the last context server: `trtdist down` ends the run, and drains it"),
        ("gen.7", "per_server", 5.0, "there is no server gen.7: this run has ctx.0, gen.0, gen.1"),
        ("gen.0", "per_server", 0.1, "gen.0 cannot be drained: the run is not ready, or is ending"),
        (
            "gen.0",
            "mpi_world",
            5.0,
            "gen.0 cannot leave alone: its MPI world ends with it (`launch: per_server` starts them apart)",
        ),
    ],
)
def test_a_server_that_cannot_leave_alone_stays(server: str, launch: str, when: float, reason: str) -> None:
    cluster = life(Fault(when, "drain", server), made=plan(launch))
    assert cluster.actions(messages.Refuse) == [messages.Refuse("request", reason)]
    assert not cluster.actions(messages.Drained)


FAULTS = st.builds(
    Fault,
    st.floats(0.0, 60.0),
    st.sampled_from(["kill_task", "kill_task", "kill_task", "kill_step", "kill_shim", "drain", "signal"]),
    st.sampled_from([*(f"{name}.0" for name in SERVERS), *SERVERS, "nats", "etcd", "router", "canary"]),
    st.sampled_from([None, 1.0, 30.0]),
)


@settings(deadline=None, max_examples=150)
@given(
    faults=st.lists(FAULTS, max_size=8),
    end=st.sampled_from([Fault(100.0, "down"), Fault(100.0, "everyone"), Fault(30.0, "interrupt")]),
    restarts=st.integers(0, 3),
    critical=st.booleans(),
    launch=st.sampled_from(["per_server", "mpi_world"]),
)
def test_whatever_dies(faults: list[Fault], end: Fault, restarts: int, critical: bool, launch: str) -> None:
    made = plan(launch, restarts, critical, also=("nats", "etcd", "router"))
    cluster = life(*faults, end, made=made, until=2000.0)
    assert cluster.state.phase == OVER
    assert cluster.outcome.state in ("STOPPED", "INTERRUPTED", "FAILED")
    # Nothing runs twice at a time, nothing starts again more often than it may, or once the end has begun.
    ending = [when for when, action in cluster.log if isinstance(action, messages.Announce) and action.state in _ENDS]
    for step in made.steps:
        starts = at(cluster, messages.Start, step.name)
        assert len(starts) <= 1 + step.restarts
        assert not starts or starts[-1] <= ending[0]
    assert not cluster.running


_ENDS = ("STOPPING", "STOPPED", "INTERRUPTED", "FAILED")


@pytest.mark.parametrize("later", [0.05, 0.7])
@pytest.mark.parametrize(("code", "number"), [(14, None), (None, signal.SIGTERM)])
def test_a_neighbour_is_waited_for_before_a_step_starts_again(later: float, code: int | None, number: int) -> None:
    """Who was killed with its shim, only the launch line tells."""
    cluster = life(made=plan("mpi_world"), until=5.0)
    began = cluster.now
    cluster.feed(messages.TaskEnded("workers", "gen.0.0", code, number, EPOCH + began))
    cluster.later(later, messages.TaskGone("workers", "ctx.0.0", EPOCH + began + later))
    cluster.run([], until=50.0)
    assert cluster.actions(messages.FindKilled) == [messages.FindKilled("workers")]
    assert cluster.actions(messages.Restarting)[0].reason.startswith("ctx.0.0 (step workers) vanished")  # type: ignore[union-attr]
    (told,) = at(cluster, messages.Restarting, "workers")
    assert told - began == pytest.approx(later + cluster.settings.settle, abs=0.01)
