"""Runs that go on: servers, services and worlds that are really killed come back, and what the load notices of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.steady_load import steady_load
from tests.end_to_end.workplace import Workplace
from tests.faults.asking import open_requests
from tests.supervisor.runs import wait_for
from trtdist.events import Drained, Restarting, Rung, RunState, TaskStarted, WrittenOff
from trtdist.serving.slug import CONTEXT

AGAIN = "restart: {policy: on-failure, backoff: 200ms}"
DEPLOYMENT = """\
name: again
model: reference/tiny
engine: reference
launch: {launch}
context_servers: {{num_instances: 2, {servers}, reference: {{prefill_delay: 0.02}}}}
generation_servers: {{num_instances: 2, {servers}, reference: {{step_delay: 0.01}}}}
services: {{nats: {{{AGAIN}}}, etcd: {{{AGAIN}}}}}
router: {{http: null, {AGAIN}}}
"""


def deployment(place: Workplace, launch: str = "per_server", servers: str = AGAIN) -> Path:
    place.up(place.topology(DEPLOYMENT.format(launch=launch, servers=servers, AGAIN=AGAIN)))
    return place.runs()[-1]


def pid(place: Workplace, name: str) -> int:
    """The process of a task that runs now."""
    return int([event for event in place.events(TaskStarted) if event.name == name][-1].pid)


def kill(place: Workplace, name: str) -> float:
    """Kill a task; the time of it."""
    os.kill(pid(place, name), signal.SIGKILL)
    return time.time()


def conditions(place: Workplace) -> list[tuple[str, str]]:
    return [(event.state, event.detail) for event in place.events(RunState)]


def comes_back(place: Workplace, times: int = 1) -> None:
    """Wait until the run has been READY again, with nobody missing, after so many interruptions."""
    wait_for(lambda: conditions(place).count(("READY", "")) > times, 180, f"READY again: {conditions(place)}")


def lives_proven(place: Workplace, server: str) -> int:
    """In how many of its lives a server answered a canary, which may be told more than once."""
    rungs = [event.rung for event in place.events(Rung) if event.name == server]
    return sum("canary" in life.split() for life in " ".join(rungs).split("process")[1:])


def test_a_killed_server_comes_back_while_the_others_serve(place: Workplace) -> None:
    folder = deployment(place)
    with steady_load(folder) as load:
        killed = kill(place, "gen.1.0")
        wait_for(lambda: any("degraded" in detail for _, detail in conditions(place)), 60, "it to be told")
        assert place.status()["state"] == "READY"
        comes_back(place)
    assert len(load.answers()) == 1
    assert all(each.begun < killed for each in load.failed()), load.failed()
    assert len(load.failed()) <= load.streams
    assert lives_proven(place, "gen.1") == 2
    (again,) = place.events(Restarting)
    assert (again.step, again.attempt, again.reason) == ("gen.1", 1, "gen.1.0 (step gen.1) was killed by SIGKILL")
    server = next(each for each in place.status()["servers"] if each["name"] == "gen.1")
    assert (server["state"], server["restarts"]) == ("READY", 1)
    place.trtdist("down")


@pytest.mark.long
def test_a_drained_server_leaves_and_no_request_fails(place: Workplace) -> None:
    folder = deployment(place)
    with steady_load(folder) as load:
        done = place.trtdist("drain", "ctx.1")
        assert done.stdout == "ctx.1 finished its requests and left\n"
        place.trtdist("drain", "gen.0", "--grace", "30")
        last = time.time()
        wait_for(lambda: any(each.begun > last for each in load.outcomes), 20, "answers of those that are left")
    assert load.failed() == []
    assert len(load.answers()) == 1
    assert [event.step for event in place.events(Drained)] == ["ctx.1", "gen.0"]
    assert "is the last generation server" in place.trtdist("drain", "latest", "gen.1", code=2).stderr
    states = {each["name"]: each["state"] for each in place.status()["servers"]}
    assert states == {"ctx.0": "READY", "ctx.1": "STOPPED", "gen.0": "STOPPED", "gen.1": "READY"}
    place.trtdist("down")


@pytest.mark.long
@pytest.mark.parametrize("victim", ["nats", "etcd", "router", "canary"])
def test_a_killed_service_comes_back_with_its_data(place: Workplace, victim: str) -> None:
    folder = deployment(place)
    ports = (folder / "resolved.env").read_text()
    with steady_load(folder) as load:
        killed = kill(place, victim)
        if victim == "canary":
            wait_for(lambda: place.events(Restarting), 10, "its restart")
        else:
            comes_back(place)
        back = time.time()
        wait_for(lambda: any(each.begun > back for each in load.outcomes if not each.error), 30, "answers again")
    assert (folder / "resolved.env").read_text() == ports
    assert len(load.answers()) == 1
    late = [each for each in load.failed() if each.begun > back]
    assert late == [], late
    if victim in ("etcd", "canary"):
        assert load.failed() == []
    assert killed < back
    # Whoever serves kept its place: no server was started again for it.
    assert [event.step for event in place.events(Restarting)] == [victim]
    place.trtdist("down")


@pytest.mark.long
def test_a_world_comes_back_as_a_whole(place: Workplace) -> None:
    folder = deployment(place, launch="mpi_world")
    with steady_load(folder) as load:
        kill(place, "gen.0.0")
        wait_for(lambda: conditions(place)[-1][0] == "STARTING", 5, "that no requests are answered")
        comes_back(place)
        back = time.time()
        wait_for(lambda: any(each.begun > back for each in load.outcomes if not each.error), 30, "answers again")
    assert len(load.answers()) == 1
    assert [each for each in load.failed() if each.begun > back] == []
    assert [lives_proven(place, name) for name in ("ctx.0", "ctx.1", "gen.0", "gen.1")] == [2] * 4
    place.trtdist("down")


@pytest.mark.long
def test_a_server_that_may_die_is_gone_and_the_run_stays(place: Workplace) -> None:
    folder = deployment(place, servers="critical: false")
    with steady_load(folder) as load:
        killed = kill(place, "ctx.0.0")
        wait_for(lambda: place.events(WrittenOff), 5, "that it is gone")
        time_after = time.time()
        wait_for(lambda: any(each.begun > time_after for each in load.outcomes), 20, "answers")
    assert all(each.begun < killed for each in load.failed())
    status = place.status()
    assert (status["state"], status["detail"]) == ("READY", "degraded: ctx.0 is gone")
    kill(place, "ctx.1.0")
    wait_for(lambda: place.verdict() is not None, 10, "a verdict")
    verdict = place.verdict()
    assert verdict is not None
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", "ctx.1.0")


@pytest.mark.long
def test_restarts_run_out_and_the_first_cause_stays(place: Workplace) -> None:
    deployment(place, servers="restart: {policy: on-failure, max: 1, backoff: 100ms}")
    killed = kill(place, "gen.1.0")
    comes_back(place)
    os.kill(pid(place, "gen.1.0"), signal.SIGTERM)
    wait_for(lambda: place.verdict() is not None, 10, "a verdict")
    verdict = place.verdict()
    assert verdict is not None
    assert abs(verdict["first"]["time"] - killed) < 1.0
    assert verdict["first"]["signal"] == signal.SIGKILL
    assert verdict["reason"].startswith(
        "gen.1.0 (step gen.1) was killed by SIGKILL, and gen.1 was restarted once in vain; last, gen.1.0 ended"
    )


@pytest.mark.long
def test_down_lets_open_requests_end(place: Workplace) -> None:
    deployment(place)
    asking = place.start("client", "--prompt", "The capital of France is", "--max-tokens", "200")
    assert asking.stdout is not None
    asking.stdout.read(1)
    place.trtdist("down", "--grace", "30")
    output, _ = asking.communicate(timeout=30)
    assert asking.returncode == 0, output


@pytest.mark.long
@pytest.mark.parametrize("launch", ["per_server", "mpi_world"])
def test_down_lets_a_request_end_whose_prompt_is_being_read(place: Workplace, launch: str) -> None:
    """The generation server has nothing to do yet."""
    text = DEPLOYMENT.format(launch=launch, servers="", AGAIN=AGAIN).replace("num_instances: 2, ,", "num_instances: 1,")
    place.up(place.topology(text.replace("prefill_delay: 0.02", "prefill_delay: 5")))
    asking = place.start("client", "--prompt", "The capital of France is")
    wait_for(lambda: open_requests(place.runs()[-1], CONTEXT), 30, "a request in the context server")
    place.trtdist("down", "--grace", "60")
    output, _ = asking.communicate(timeout=60)
    assert asking.returncode == 0, output


@pytest.mark.long
def test_a_second_interrupt_shortens_the_drain(place: Workplace) -> None:
    text = DEPLOYMENT.format(launch="per_server", servers=AGAIN, AGAIN=AGAIN).replace("0.01", "0.5")
    front = place.up_in_front(place.topology(text + "timeouts: {stop: 60}\n"))
    asking = place.start("client", "--prompt", "The capital of France is", "--max-tokens", "200")
    assert asking.stdout is not None
    asking.stdout.read(1)
    front.send_signal(signal.SIGINT)
    wait_for(lambda: place.told('"state": "STOPPING"'), 10, "STOPPING")
    with pytest.raises(subprocess.TimeoutExpired):
        front.wait(3)
    front.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert front.wait(20) == 130
    assert time.monotonic() - began < 10
    asking.kill()
    asking.wait()
