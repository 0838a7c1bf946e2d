"""Processes of a ready run that are frozen: each is found, named, and treated as its death would be."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks.steady_load import steady_load
from tests.end_to_end.test_recovery import comes_back, pid
from tests.end_to_end.workplace import Workplace
from tests.supervisor.runs import wait_for
from trtdist.events import Restarting, Stalled

pytestmark = pytest.mark.long

AGAIN = "restart: {policy: on-failure, backoff: 200ms}"
DEPLOYMENT = """\
name: hangs
model: reference/tiny
engine: reference
launch: {launch}
context_servers: {{num_instances: 1, tensor_parallel_size: 2{also}}}
generation_servers: {{num_instances: 1{also}}}
services: {{nats: {{{own}}}, etcd: {{{own}}}}}
router: {{{own}}}
timeouts: {{stall: 4, stop: 5}}
"""
FOUND_S = 60.0
# Whose hang is found without any request, and how it is told.
KEPT = {"router": "its place in etcd", "gen.0.0": "its place in etcd", "ctx.0.0": "its place in etcd"}
ASKED = {"front": "does not answer", "nats": "does not answer", "etcd": "does not answer"}


def deployment(place: Workplace, launch: str, again: bool) -> Path:
    also, own = (f", {AGAIN}", AGAIN) if again else ("", "")
    place.up(place.topology(DEPLOYMENT.format(launch=launch, also=also, own=own)))
    return place.runs()[-1]


def freeze(place: Workplace, name: str) -> None:
    os.kill(pid(place, name), signal.SIGSTOP)


@pytest.mark.parametrize("launch", ["per_server", "mpi_world"])
@pytest.mark.parametrize("victim", [*KEPT, *ASKED])
def test_a_frozen_process_fails_the_run_and_is_named(place: Workplace, victim: str, launch: str) -> None:
    deployment(place, launch, again=False)
    freeze(place, victim)
    verdict = wait_for(place.verdict, FOUND_S, "the verdict")
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", victim), verdict
    assert {**KEPT, **ASKED}[victim] in verdict["reason"]
    assert (place.runs()[-1] / "stacks" / f"{victim}.txt").exists() or victim == "etcd"
    place.nothing_left()


@pytest.mark.parametrize("launch", ["per_server", "mpi_world"])
def test_a_frozen_follower_is_named_once_requests_wait_for_it(place: Workplace, launch: str) -> None:
    folder = deployment(place, launch, again=False)
    with steady_load(folder, streams=2):
        freeze(place, "ctx.0.1")
        verdict = wait_for(place.verdict, FOUND_S, "the verdict")
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", "ctx.0.1"), verdict
    assert "is behind the others; it is stopped by a signal" in verdict["reason"]
    (stall,) = place.events(Stalled)
    assert (stall.server, stall.task) == ("ctx.0", "ctx.0.1")
    assert "State" not in (folder / "stacks" / "ctx.0.1.txt").read_text()
    why = place.trtdist("why", "latest").stdout
    assert "ctx.0.1 (step" in why and "is behind the others; it is stopped" in why and "stacks/ctx.0.1.txt:" in why, why
    place.nothing_left()


@pytest.mark.parametrize(
    ("launch", "victim"),
    [
        ("per_server", "ctx.0.1"),
        ("mpi_world", "ctx.0.1"),
        ("per_server", "gen.0.0"),
        ("per_server", "router"),
        ("per_server", "front"),
        ("per_server", "nats"),
        ("per_server", "etcd"),
    ],
)
def test_a_frozen_process_is_started_again(place: Workplace, launch: str, victim: str) -> None:
    folder = deployment(place, launch, again=True)
    with steady_load(folder, streams=2) as load:
        freeze(place, victim)
        wait_for(lambda: place.events(Restarting), FOUND_S, "its restart")
        comes_back(place)
        back = time.time()
        wait_for(lambda: any(each.begun > back for each in load.outcomes if not each.error), 60, "answers again")
    assert len(load.answers()) == 1
    assert victim in [event.reason.split()[0] for event in place.events(Restarting)]
    place.trtdist("down")


def test_a_run_that_nobody_asks_stays_ready(place: Workplace) -> None:
    """Beyond every deadline, with a follower that could not answer."""
    deployment(place, "per_server", again=False)
    freeze(place, "ctx.0.1")
    time.sleep(25)
    assert place.status()["state"] == "READY"
    place.trtdist("down")
