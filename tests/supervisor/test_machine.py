"""The state machine, alone and against a simulated cluster in virtual time."""

from __future__ import annotations

import signal
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.supervisor.simulation import EPOCH, NEVER, Behaviour, Cluster, Fault, make_plan
from trtdist.supervisor import deaths, facts, messages
from trtdist.supervisor.machine import advance, next_deadline
from trtdist.supervisor.state import OVER, READY, STARTING, State, initial

STEPS = ("nats", "etcd", "workers", "router", "canary")


def life(*faults: Fault, **given: object) -> Cluster:
    launch = str(given.pop("launch", "mpi_world"))
    cluster = Cluster(make_plan(launch), **given)  # type: ignore[arg-type]
    cluster.run(list(faults))
    return cluster


def starts(cluster: Cluster) -> list[str]:
    return [action.step for action in cluster.actions(messages.Start)]  # type: ignore[union-attr]


def test_services_first_then_everything_else_together() -> None:
    cluster = life(Fault(5.0, "down"))
    started = [(at, action.step) for at, action in cluster.log if isinstance(action, messages.Start)]
    assert [step for _, step in started] == list(STEPS)
    assert len({at for at, _ in started[:2]}) == 1
    assert len({at for at, _ in started[2:]}) == 1
    assert started[2][0] > started[1][0]


def test_down_stops_tier_by_tier_and_ends_stopped() -> None:
    cluster = life(Fault(5.0, "down"))
    order = [action.step for action in cluster.actions(messages.Signal)]  # type: ignore[union-attr]
    assert order == ["router", "workers", "nats", "etcd"]
    numbers = {a.step: a.number for a in cluster.actions(messages.Signal)}  # type: ignore[union-attr]
    assert numbers["nats"] == signal.SIGINT
    assert numbers["workers"] == signal.SIGTERM
    assert not cluster.actions(messages.Kill)
    assert (cluster.outcome.state, cluster.outcome.exit_code) == ("STOPPED", 0)
    states = [action.state for action in cluster.actions(messages.Announce)]  # type: ignore[union-attr]
    assert states == ["STARTING", "READY", "STOPPING", "STOPPED"]


def test_ready_needs_the_canary_to_say_so() -> None:
    cluster = Cluster(make_plan(), behaviours={"canary": Behaviour(up_after=NEVER)})
    cluster.run([], until=50.0)
    assert cluster.state.phase == STARTING
    assert "READY" not in [action.state for action in cluster.actions(messages.Announce)]  # type: ignore[union-attr]


def test_not_ready_in_time_says_how_far_each_server_got() -> None:
    limits = facts.Settings(ready_timeout=4.0)
    cluster = life(settings=limits, behaviours={"canary": Behaviour(up_after=NEVER)})
    assert (cluster.outcome.state, cluster.outcome.exit_code) == ("TIMEOUT", 3)
    assert cluster.outcome.reason == (
        "not ready within 4 s: ctx.0 got as far as 'engine', gen.0 got as far as 'engine'; "
        "ctx.0.0 was still on its way when the time was up"
    )


def test_a_canary_that_nobody_answers_is_told_with_the_server_that_had_it() -> None:
    state = initial(make_plan(), facts.Settings(ready_timeout=4.0))
    told = [messages.Reached(name, "answering") for name in ("ctx.0", "gen.0")]
    late = messages.Unanswered("ctx.0", "gen.0", "the answer was not complete within 1 s", "ctx.0")
    for event in (*told, late):
        state, _ = advance(state, event, 1.0)
    outcome = deaths.not_ready(state)
    assert outcome.reason.endswith("; a prompt through ctx.0 and gen.0 failed: the answer was not complete within 1 s")
    assert outcome.behind == ("ctx.0",)
    state, _ = advance(state, messages.Reached("gen.0", "canary"), 2.0)
    assert "a prompt" not in deaths.not_ready(state).reason


def test_a_service_that_is_never_healthy_is_named() -> None:
    cluster = life(behaviours={"etcd": Behaviour(up_after=NEVER)})
    assert cluster.outcome.state == "TIMEOUT"
    assert cluster.outcome.reason == "etcd was not healthy within 30 s"
    assert cluster.outcome.first is not None
    assert cluster.outcome.first.name == "etcd"
    assert starts(cluster) == ["nats", "etcd"]


def death(task: str, code: int | None, number: int | None, at: float, step: str = "workers") -> deaths.Death:
    return deaths.of_task(step, task, code, number, at)


def test_a_rank_that_lost_its_neighbour_comes_after_the_neighbour() -> None:
    neighbour = death("ctx.0.0", 14, None, 10.0)
    killed = death("ctx.0.1", None, 9, 10.2)
    first = deaths.first_of((neighbour, death("router", 1, None, 10.1, "router"), killed))
    assert (first.name, first.at) == ("ctx.0.1", 10.0)
    assert deaths.first_of((killed, neighbour)).name == "ctx.0.1"
    assert deaths.first_of((neighbour, deaths.of_gone("workers", "gen.0.0", 10.3))).name == "gen.0.0"
    failed = death("gen.0.0", 1, None, 10.1)
    assert deaths.first_of((neighbour, failed)).name == "gen.0.0"
    # Whose end is seen first of those that end within a moment is chance.
    assert deaths.first_of((neighbour, death("gen.0.0", 0, None, 10.001))).name == "gen.0.0"


@pytest.mark.parametrize(
    "other",
    [
        death("ctx.0.1", None, signal.SIGTERM, 10.1),
        death("ctx.0.1", 143, None, 10.1),
        death("ctx.0.1", 0, None, 10.1),
        death("ctx.0.1", 14, None, 10.1),
        death("router", 1, None, 10.1, "router"),
        death("workers", 14, None, 10.1),
    ],
)
def test_a_rank_with_an_error_of_mpi_that_nobody_else_explains_is_first(other: deaths.Death) -> None:
    assert deaths.first_of((death("ctx.0.0", 14, None, 10.0), other)).name == "ctx.0.0"


@pytest.mark.parametrize("killed", [death("gen.0.0", None, 9, 10.4), deaths.of_gone("workers", "gen.0.0", 10.4)])
def test_a_rank_that_the_launcher_ended_comes_after_the_one_that_it_saw_killed(killed: deaths.Death) -> None:
    others = (death("ctx.0.1", None, signal.SIGTERM, 10.0), death("ctx.0.0", 14, None, 10.1))
    assert deaths.first_of((*others, killed)).name == "gen.0.0"
    assert deaths.first_of(others).name == "ctx.0.1"


def test_who_told_its_end_comes_before_who_was_killed_with_the_others() -> None:
    killed, other = death("ctx.0.1", None, 9, 10.01), deaths.of_gone("workers", "gen.1.1", 10.5)
    assert deaths.first_of((death("ctx.0.0", 14, None, 10.0), other, killed)).name == "ctx.0.1"


def test_what_did_not_listen_to_term_comes_after_what_did() -> None:
    killed = death("gen.0.0", None, signal.SIGKILL, 15.1)
    assert deaths.first_of((death("ctx.0.1", None, signal.SIGTERM, 10.0), killed)).name == "ctx.0.1"


def test_a_task_that_was_seen_to_be_gone_and_tells_its_end_late_is_still_a_death() -> None:
    gone = deaths.of_gone("workers", "gen.0.0", 10.3)
    assert deaths.first_of((gone, deaths.of_task("workers", "gen.0.0", 14, None, 10.2))).name == "gen.0.0"


@pytest.mark.parametrize("later", [0.05, 0.7])
@pytest.mark.parametrize(("code", "number"), [(14, None), (None, signal.SIGTERM)])
def test_a_neighbour_is_waited_for_when_nothing_else_is_known(later: float, code: int | None, number: int) -> None:
    cluster = Cluster(make_plan())
    cluster.run([], until=5.0)
    began = cluster.now
    cluster.feed(messages.TaskEnded("workers", "ctx.0.0", code, number, EPOCH + cluster.now))
    cluster.later(later, messages.TaskGone("workers", "ctx.0.1", EPOCH + cluster.now + later))
    cluster.run([])
    assert messages.FindKilled("workers") in cluster.actions(messages.FindKilled)
    assert cluster.outcome.first is not None and cluster.outcome.first.name == "ctx.0.1"
    told = next(at for at, action in cluster.log if isinstance(action, messages.Announce) and action.state == "FAILED")
    assert told - began == pytest.approx(later + cluster.settings.settle, abs=0.01)


def test_a_killed_task_fails_the_run_within_two_seconds() -> None:
    cluster = life(Fault(5.0, "kill_task", "ctx.0.1"))
    first = cluster.outcome.first
    assert first is not None
    assert (first.name, first.step, first.signal) == ("ctx.0.1", "workers", signal.SIGKILL)
    assert cluster.outcome.reason == "ctx.0.1 (step workers) was killed by SIGKILL"
    assert cluster.now < 7.0


def test_a_vanished_shim_comes_before_those_that_followed() -> None:
    cluster = life(Fault(5.0, "kill_shim", "gen.0.0"))
    assert cluster.outcome.first is not None
    assert cluster.outcome.first.name == "gen.0.0"


def test_a_killed_launcher_is_named_and_not_its_tasks() -> None:
    machine = initial(make_plan(), facts.Settings())
    machine, _ = advance(machine, messages.Begin(), 0.0)
    machine, _ = advance(machine, messages.Resolved(""), 0.0)
    for service in ("nats", "etcd"):
        machine, _ = advance(machine, messages.Healthy(service, ""), 0.0)
    for event in (
        messages.TaskGone("workers", "ctx.0.0", 10.0),
        messages.TaskEnded("workers", "ctx.0.1", None, 15, 10.01),
        messages.StepEnded("workers", None, 9, 10.0),
    ):
        machine, _ = advance(machine, event, 1.0)
    assert machine.first is not None
    assert machine.first.name == "workers"


def test_a_task_that_cannot_run_where_it_is_says_why() -> None:
    machine = initial(make_plan(), facts.Settings())
    for event in (
        messages.Begin(),
        messages.Resolved(""),
        messages.StepEnded("workers", 1, None, 10.0),
        messages.TaskRefused("workers", "ctx.0.1", "belongs elsewhere", 9.9),
    ):
        machine, _ = advance(machine, event, 1.0)
    assert machine.first is not None
    assert deaths.failure(machine.first).reason == "ctx.0.1 (step workers) belongs elsewhere"


@pytest.mark.parametrize("step", ["nats", "workers", "router"])
def test_exit_0_that_nobody_asked_for_is_a_failure(step: str) -> None:
    machine = _ready()
    machine, _ = advance(machine, messages.StepEnded(step, 0, None, 5.0), 5.0)
    machine, actions = advance(machine, messages.Tick(), 6.0)
    assert messages.Announce("FAILED", machine.stop.outcome.reason) in actions  # type: ignore[union-attr]
    assert "exit code 0 and nobody had asked it to" in machine.stop.outcome.reason  # type: ignore[union-attr]


def test_the_canary_may_end_with_0_once_the_run_is_ready() -> None:
    cluster = Cluster(make_plan())
    cluster.run([], until=100.0)
    assert cluster.state.phase == READY


def test_the_canary_may_not_end_before_that() -> None:
    machine = _starting()
    machine, _ = advance(machine, messages.StepEnded("canary", 0, None, 1.0), 1.0)
    machine, _ = advance(machine, messages.Tick(), 2.0)
    assert machine.stop is not None
    assert machine.stop.outcome.state == "FAILED"


@pytest.mark.parametrize(("taken", "state", "count"), [(1, READY, 2), (4, READY, 5), (5, OVER, 5)])
def test_a_taken_port_is_replaced_at_most_five_times(taken: int, state: str, count: int) -> None:
    cluster = Cluster(make_plan(), behaviours={"nats": Behaviour(ports_taken=taken)})
    cluster.run([], until=100.0)
    assert cluster.state.phase == state
    assert starts(cluster).count("nats") == count
    if state == OVER:
        assert cluster.outcome.first is not None
        assert cluster.outcome.first.name == "nats"
        assert "each of the 5 ports" in cluster.outcome.reason


def test_a_service_that_dies_early_of_something_else_fails_the_run() -> None:
    cluster = life(behaviours={"etcd": Behaviour(up_after=NEVER, dies_at=0.1)})
    assert starts(cluster) == ["nats", "etcd"]
    assert cluster.outcome.reason == "etcd ended with exit code 1 and nobody had asked it to"


@pytest.mark.parametrize("kind", ["kill_step", "kill_task", "kill_shim"])
def test_a_service_that_is_killed_before_it_is_healthy_is_not_started_again(kind: str) -> None:
    cluster = life(Fault(0.03, kind, "nats"))
    assert starts(cluster).count("nats") == 1
    assert (cluster.outcome.state, cluster.outcome.exit_code) == ("FAILED", 1)
    assert cluster.outcome.first is not None
    assert cluster.outcome.first.name == "nats"


def test_what_ignores_the_signal_is_killed_within_the_grace() -> None:
    cluster = life(Fault(5.0, "down", grace=3.0), behaviours={"workers": Behaviour(stops_after=NEVER)})
    assert [action.step for action in cluster.actions(messages.Kill)] == ["workers"]  # type: ignore[union-attr]
    assert cluster.outcome.state == "STOPPED"
    assert cluster.now <= 5.0 + 3.0 + 0.5


def test_another_request_only_shortens_the_grace() -> None:
    stubborn = {"workers": Behaviour(stops_after=NEVER)}
    patient = life(Fault(5.0, "interrupt"), behaviours=stubborn)
    hurried = life(Fault(5.0, "interrupt"), Fault(5.5, "interrupt"), behaviours=stubborn)
    at_once = life(*(Fault(5.0 + i / 10, "interrupt") for i in range(3)), behaviours=stubborn)
    longer = life(Fault(5.0, "down", grace=1.0), Fault(5.2, "down", grace=60.0), behaviours=stubborn)
    assert at_once.now < hurried.now < patient.now
    assert at_once.now < 5.6
    assert longer.now < 7.0
    assert hurried.outcome.exit_code == 130


def test_what_survives_kill_is_named_and_does_not_hold_the_end() -> None:
    unkillable = Behaviour(stops_after=NEVER, killed_after=NEVER)
    cluster = life(Fault(5.0, "down", grace=1.0), behaviours={"router": unkillable}, sweep_left=("router",))
    assert cluster.outcome.left == ("router",)
    assert "still there: router" in cluster.outcome.reason
    assert cluster.now < 5.0 + 1.0 + 1.5


def test_term_to_everything_has_its_verdict_at_once() -> None:
    cluster = life(Fault(5.0, "everyone"))
    concluded = [at for at, action in cluster.log if isinstance(action, messages.Conclude)]
    assert concluded == [5.0]
    assert [a.step for a in cluster.actions(messages.Signal)] == ["nats", "etcd"]  # type: ignore[union-attr]
    assert (cluster.outcome.state, cluster.outcome.exit_code) == ("INTERRUPTED", 130)


def test_a_job_that_lost_a_node_says_so_whoever_died_first() -> None:
    machine = _starting()
    machine, _ = advance(machine, messages.TaskEnded("workers", "ctx.0.0", None, 9, 100.0), 1.0)
    lost = messages.EveryoneTerminated("job 7 lost node2", "FAILED", 1, certain=True)
    _, actions = advance(machine, lost, 1.05)
    assert messages.Conclude(facts.Outcome("FAILED", 1, "job 7 lost node2")) in actions


def test_a_death_that_term_may_have_caused_is_not_called_the_cause() -> None:
    for step, task, code, number in (
        ("nats", "nats", 1, None),
        ("workers", "ctx.0.0", None, 15),
        ("router", "router", 0, None),
    ):
        machine = _starting()
        machine, _ = advance(machine, messages.TaskEnded(step, task, code, number, 100.0), 1.0)
        machine, actions = advance(machine, messages.SignalCame(), 1.05)
        machine, more = advance(machine, messages.Tick(), 1.9)
        assert [*actions, *more] == []
        _, actions = advance(machine, messages.EveryoneTerminated("cancelled"), 1.95)
        assert messages.Conclude(facts.Outcome("INTERRUPTED", 130, "cancelled")) in actions


def test_a_signal_that_turns_out_to_mean_nothing_else_keeps_the_first_death() -> None:
    machine = _starting()
    machine, _ = advance(machine, messages.TaskEnded("workers", "ctx.0.0", None, 9, 100.0), 1.0)
    machine, _ = advance(machine, messages.SignalCame(), 1.05)
    _, actions = advance(machine, messages.StopAsked(True, None, "interrupted"), 1.2)
    assert messages.Announce("FAILED", "ctx.0.0 (step workers) was killed by SIGKILL") in actions


def test_near_the_time_limit_the_tiers_stop_in_order() -> None:
    cluster = life(Fault(5.0, "time limit"))
    order = [action.step for action in cluster.actions(messages.Signal)]  # type: ignore[union-attr]
    assert order == ["router", "workers", "nats", "etcd"]
    assert (cluster.outcome.state, cluster.outcome.exit_code) == ("TIMEOUT", 1)


def test_a_step_none_of_whose_tasks_ever_runs_fails_the_run() -> None:
    cluster = Cluster(make_plan(), facts.Settings(start_timeout=7.0), {"router": Behaviour(begins_after=NEVER)})
    cluster.run([])
    assert cluster.outcome.reason == "router was launched, and after 7 s none of its tasks ran"
    assert cluster.now < 12.0


def test_a_task_that_comes_up_during_a_stop_is_told() -> None:
    machine = _starting()
    machine, _ = advance(machine, messages.StopAsked(False, 10.0, "down"), 1.0)
    _, actions = advance(machine, messages.TaskBegan("router", "router"), 1.1)
    assert actions == [messages.SignalTask("router", "router", signal.SIGTERM)]


def test_a_stop_before_anything_started_starts_nothing() -> None:
    machine = initial(make_plan(), facts.Settings())
    machine, _ = advance(machine, messages.StopAsked(True, None, "ctrl-c"), 0.0)
    machine, actions = advance(machine, messages.Swept(()), 0.1)
    assert messages.Finish(130) in actions
    machine, actions = advance(machine, messages.Begin(), 0.2)
    assert actions == []


def test_the_cost_of_an_event_does_not_grow_with_how_many_came_before() -> None:
    machine = _ready(make_plan("per_server", (1,) * 64))

    def cost(state: State) -> float:
        begun = time.process_time()
        for _ in range(200):
            state, _ = advance(state, messages.Reached("gen.1", "canary"), 1.0)
        return time.process_time() - begun

    before = min(cost(machine) for _ in range(3))
    for i in range(5000):
        machine, _ = advance(machine, messages.TaskBegan("gen.0", f"gen.0.{i}"), 1.0)
    assert min(cost(machine) for _ in range(3)) < 5 * before + 0.01


def test_the_cost_of_an_event_does_not_grow_with_how_many_servers_there_are() -> None:
    def cost(servers: int) -> float:
        machine = _ready(make_plan("per_server", (1,) * servers))
        events: list[messages.Input] = []
        for i in range(50):
            events += [messages.TaskBegan(f"gen.{i}", f"gen.{i}.0"), messages.Reached(f"gen.{i}", "engine")]
        events.append(messages.StopAsked(False, None, "down"))
        machine, _ = advance(machine, events.pop(), 1.0)
        events += [messages.StepEnded(f"gen.{i}", 0, None, 1.0) for i in range(50)]
        begun = time.process_time()
        for event in events:
            machine, _ = advance(machine, event, 1.0)
            next_deadline(machine)
        return time.process_time() - begun

    assert min(cost(1000) for _ in range(3)) < 4 * min(cost(60) for _ in range(3))


def _starting() -> State:
    machine = initial(make_plan(), facts.Settings())
    for event in (messages.Begin(), messages.Resolved(""), messages.Healthy("nats", ""), messages.Healthy("etcd", "")):
        machine, _ = advance(machine, event, 0.0)
    return machine


def _ready(plan: object = None) -> State:
    machine = initial(plan or make_plan(), facts.Settings())  # type: ignore[arg-type]
    for event in (messages.Begin(), messages.Resolved(""), messages.Healthy("nats", ""), messages.Healthy("etcd", "")):
        machine, _ = advance(machine, event, 0.0)
    machine, _ = advance(machine, messages.CameReady(), 0.0)
    return machine


# Properties.

delays = st.sampled_from([0.0, 0.01, 0.3, 2.0, NEVER])
behaviour = st.builds(
    Behaviour,
    up_after=delays,
    stops_after=delays,
    killed_after=st.sampled_from([0.0, 0.01, NEVER]),
    dies_at=st.sampled_from([NEVER, NEVER, NEVER, 0.005, 0.4, 7.0]),
    ports_taken=st.integers(0, 6),
)
KINDS = ("kill_step", "kill_task", "kill_shim", "down", "interrupt", "everyone", "broke", "time limit")
targets = st.sampled_from(["ctx.0.0", "ctx.0.1", "gen.0.0", "router", "nats", "etcd", "canary", "workers"])
fault = st.builds(
    Fault,
    at=st.floats(0.0, 40.0),
    kind=st.sampled_from(
        ["kill_step", "kill_task", "kill_shim", "down", "interrupt", "everyone", "broke", "time limit"]
    ),
    target=targets,
    grace=st.sampled_from([None, 0.0, 1.0, 5.0]),
)


@settings(max_examples=150, deadline=None)
@given(
    launch=st.sampled_from(["mpi_world", "per_server"]),
    behaviours=st.dictionaries(st.sampled_from([*STEPS, "ctx.0", "gen.0"]), behaviour),
    faults=st.lists(fault, max_size=5),
)
def test_any_life_ends_once_in_time_and_leaves_nothing(
    launch: str, behaviours: dict[str, Behaviour], faults: list[Fault]
) -> None:
    limits = facts.Settings(ready_timeout=50.0)
    cluster = Cluster(make_plan(launch), limits, behaviours)
    cluster.run([*faults, Fault(100.0, "down")])
    assert cluster.state.phase == OVER
    check(cluster.log)
    unkillable = {step for step in cluster.running if cluster.behaviour(step).killed_after == NEVER}
    assert set(cluster.running) == unkillable
    began = next(at for at, action in cluster.log if _begins_stop(action))
    assert cluster.now - began <= limits.grace + 3 * limits.kill_wait + 0.1
    assert began <= 100.0
    assert cluster.calls < 400


steps = st.sampled_from([*STEPS, "nobody"])
tasks = st.sampled_from(["ctx.0.0", "gen.0.0", "router", "nats"])
ends = st.sampled_from([(0, None), (1, None), (137, None), (None, 9), (None, 15)])
at = st.floats(0.0, 100.0)
known = st.sampled_from(STEPS)
anything = st.one_of(
    st.just(messages.Begin()),
    st.just(messages.Tick()),
    st.builds(messages.Resolved, st.sampled_from(["", "nats", "etcd"])),
    st.builds(messages.Unresolved, st.just(""), st.just("no address")),
    st.builds(messages.StartFailed, known, st.just("no such file"), at),
    st.builds(lambda step, end, at: messages.StepEnded(step, *end, at), steps, ends, at),
    st.builds(messages.TaskBegan, steps, tasks),
    st.builds(
        lambda step, task, end, at, orphaned: messages.TaskEnded(step, task, *end, at, orphaned),
        *(steps, tasks, ends, at, st.booleans()),
    ),
    st.builds(messages.TaskGone, steps, tasks, at),
    st.builds(messages.TaskRefused, steps, tasks, st.just("belongs elsewhere"), at),
    st.builds(messages.PortTested, known, st.booleans()),
    st.builds(messages.Healthy, known, st.just("url")),
    st.builds(messages.Reached, st.sampled_from(["ctx.0", "gen.0", "router"]), st.just("engine")),
    st.just(messages.CameReady()),
    st.builds(messages.StopAsked, st.booleans(), st.sampled_from([None, 0.0, 3.0]), st.just("asked")),
    st.just(messages.EveryoneTerminated("job ended")),
    st.just(messages.EveryoneTerminated("node lost", "FAILED", 1, certain=True)),
    st.just(messages.SignalCame()),
    st.just(messages.TimeLimit("soon")),
    st.builds(messages.Broke, st.just("disk full")),
    st.just(messages.Swept(())),
)


@settings(max_examples=300, deadline=None)
@given(events=st.lists(st.tuples(st.floats(0.0, 3.0), anything), max_size=60))
def test_any_order_of_events_keeps_the_invariants(events: list[tuple[float, messages.Input]]) -> None:
    machine = initial(make_plan(), facts.Settings())
    now, log = 0.0, []
    for delay, event in [*events, (0.0, messages.StopAsked(False, None, "end"))]:
        now += delay
        machine, actions = advance(machine, event, now)
        log += [(now, action) for action in actions]
    for _ in range(50):
        deadline = next_deadline(machine)
        if deadline is None:
            break
        assert deadline > now or not events
        now = max(now, deadline)
        machine, actions = advance(machine, messages.Tick(), now)
        log += [(now, action) for action in actions]
    machine, actions = advance(machine, messages.Swept(()), now)
    log += [(now, action) for action in actions]
    assert machine.phase == OVER
    check(log)


def check(log: list[tuple[float, messages.Action]]) -> None:
    """What holds of every life: one verdict, one end, no start after a stop began, every started step was stopped."""
    actions = [action for _, action in log]
    assert sum(isinstance(action, messages.Conclude) for action in actions) == 1
    assert sum(isinstance(action, messages.Sweep) for action in actions) == 1
    assert isinstance(actions[-1], messages.Finish)
    stop = next(i for i, action in enumerate(actions) if _begins_stop(action))
    begins = (messages.Start, messages.Probe, messages.Resolve)
    assert not [action for action in actions[stop:] if isinstance(action, begins)]
    killed = [action.step for action in actions if isinstance(action, messages.Kill)]
    assert len(killed) == len(set(killed))


def _begins_stop(action: messages.Action) -> bool:
    return isinstance(action, messages.Announce) and action.state not in ("STARTING", "READY")
