"""A deployment whose certificates last for seconds serves on, through many renewals, whoever connects and when."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.end_to_end.asking import Asking
from tests.end_to_end.workplace import UP_SECONDS, Workplace
from tests.serving.scripted import until
from tests.supervisor.runs import wait_for
from trtdist.events import TaskStarted
from trtdist.rundir import RunDir
from trtdist.services.authority import make_certificates
from trtdist.services.tls import Certificates, validity

TOPOLOGY = """\
name: short
model: reference/tiny
engine: reference
launch: per_server
context_servers: {num_instances: 1}
generation_servers: {num_instances: 1, restart: {policy: on-failure, backoff: 200ms}}
router: {http: {port: auto, keys: none}}
"""
LIFE_S = 40.0
RENEWALS = 4
RENEWED = "the certificates of the run are renewed"


def rendered(place: Workplace, signed_ago: float, life: float) -> RunDir:
    """A run that has not begun, with certificates of this life."""
    run = RunDir(place.folder / "runs" / "short-20260101-000000-abcd")
    place.trtdist("render", place.topology(TOPOLOGY), "--local", run.path)
    for name, text in make_certificates(time.time() - signed_ago, life).items():
        (run.secrets / name).write_text(text)
    return run


def begin(place: Workplace, run: RunDir) -> subprocess.Popen[str]:
    """Start its supervisor, as `trtdist up` does."""
    with open(run.logs / "supervisor.log", "w") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "trtdist.supervisor", str(run.path)],
            env=place.environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
    place.fronts.append(supervisor)
    ended = lambda: supervisor.poll() is not None or place.told('"state": "READY"')  # noqa: E731
    wait_for(ended, UP_SECONDS, "READY")
    return supervisor


@pytest.mark.long
def test_a_deployment_serves_through_renewals_without_a_failure(place: Workplace) -> None:
    run = rendered(place, 0.0, LIFE_S)
    first_end = validity(Certificates.of(run).client)[1]
    assert begin(place, run).poll() is None, place.log("supervisor")
    load = Asking(run)

    async def through() -> None:
        asking = asyncio.ensure_future(load.all())
        await until(lambda: asking.done() or place.log("supervisor").count(RENEWED) >= RENEWALS, 300)
        await until(lambda: asking.done() or time.time() > first_end, 300)
        load.enough = True
        await asking

    asyncio.run(through())
    assert min(load.served.values()) > 3
    assert place.log("nats").count("Reloaded server configuration") >= RENEWALS
    # A program that comes up now has never seen the first certificates.
    (generation,) = [event for event in place.events(TaskStarted) if event.name == "gen.0.0"]
    os.kill(generation.pid, signal.SIGKILL)
    wait_for(lambda: sum(event.name == "gen.0.0" for event in place.events(TaskStarted)) > 1, 60, "gen.0 is back")
    wait_for(lambda: place.status(run.run_id)["state"] == "READY", 60, "READY again")
    assert place.trtdist("client", "--run", run.run_id, "--max-tokens", 4).stdout.strip()
    # Nobody was cut off.
    broken = [path.name for path in run.logs.glob("*.log") if "the connection is broken" in path.read_text()]
    assert broken == []
    place.trtdist("down", run.run_id)
    verdict = place.verdict()
    assert verdict is not None and verdict["state"] == "STOPPED"


@pytest.mark.long
def test_a_run_that_waited_until_its_certificates_were_over_begins_with_new_ones(place: Workplace) -> None:
    run = rendered(place, 30 * 86400.0, LIFE_S)
    assert begin(place, run).poll() is None, place.log("supervisor")
    assert place.trtdist("client", "--run", run.run_id, "--max-tokens", 4).stdout.strip()


@pytest.mark.long
def test_a_run_whose_certificates_are_over_and_cannot_be_renewed_fails_at_once(place: Workplace) -> None:
    run = rendered(place, 30 * 86400.0, LIFE_S)
    Certificates.of(run).authority_key.unlink()
    assert begin(place, run).poll() == 1
    verdict = place.verdict()
    assert verdict is not None and verdict["state"] == "FAILED"
    assert "could not be renewed" in verdict["reason"]
