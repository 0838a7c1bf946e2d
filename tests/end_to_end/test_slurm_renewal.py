"""Certificates of a run through Slurm are renewed on its head node; the other nodes find them in the run directory."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from tests.cluster import PYTHON, ROOT, Cluster
from tests.end_to_end.seen_run import SeenRun
from tests.end_to_end.slurm_user import EXAMPLE, READY_S, SHARED, User
from tests.end_to_end.test_slurm_recovery import states
from tests.supervisor.runs import wait_for
from trtdist.events import StepStarted, TaskExited, TaskStarted
from trtdist.rundir import RunDir
from trtdist.services.authority import make_certificates
from trtdist.services.envfile import read_env
from trtdist.services.tls import Certificates, validity

Told = TypeVar("Told", TaskStarted, TaskExited)
LIFE_S = 60.0
RENEWALS = 3
RENEWED = "the certificates of the run are renewed"
AGAIN = ("--set", "services.nats.restart={policy: on-failure, backoff: 200ms}")


@pytest.fixture
def user(cluster: Cluster) -> Iterator[User]:
    found = User(cluster)
    yield found
    found.trtdist("down")


def begun(user: User, *options: str) -> RunDir:
    """A run with certificates of a short life, READY."""
    held = ("--set", "slurm.extra_sbatch=[--hold]")
    done = user.trtdist("submit", EXAMPLE, *SHARED, *held, *options, "--json")
    assert done.returncode == 0, done.stderr
    run = RunDir(user.run_dir())
    for name, text in make_certificates(time.time(), LIFE_S).items():
        (run.secrets / name).write_text(text)
    user.cluster.output("scontrol", "release", json.loads(done.stdout)["job_id"])
    wait_for(lambda: ("READY", "") in states(run.path) or run.verdict.exists(), READY_S, "READY")
    return run


@contextmanager
def asking(user: User, run: RunDir, node: str, *ways: str) -> Iterator[subprocess.Popen[str]]:
    """Requests from a node while in `with`, all of which must be answered."""
    words = ["env", f"PYTHONPATH={ROOT}", PYTHON, "-m", "tests.end_to_end.asking", str(run.path), *ways]
    with subprocess.Popen(
        user.cluster.argv(*words, host=node), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            said = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    assert min(json.loads(said).values()) > 3


def log(run: RunDir, name: str) -> str:
    return (run.logs / f"{name}.log").read_text()


def of(run: RunDir, kind: type[Told], name: str) -> list[Told]:
    """The events of a kind about a task."""
    return [event for event in SeenRun(run.path).events(kind) if event.name == name]


@pytest.mark.long
@pytest.mark.parametrize("launch", ["mpi_world", "per_server"])
def test_both_nodes_serve_through_renewals_without_a_failure(user: User, launch: str) -> None:
    run = begun(user, "--set", f"launch={launch}", *AGAIN)
    first_end = validity(Certificates.of(run).client)[1]
    head, second = read_env(run.resolved_env)["TRTDIST_NODES"].split()
    with (
        asking(user, run, head, "stayed", "came", "http") as here,
        asking(user, run, second, "stayed", "came") as there,
    ):
        failed = lambda: here.poll() is not None or there.poll() is not None  # noqa: E731
        wait_for(lambda: failed() or log(run, "supervisor").count(RENEWED) >= RENEWALS, 300, "renewals")
        wait_for(lambda: failed() or time.time() > first_end, 300, "the end of the first certificates")
    assert log(run, "nats").count("Reloaded server configuration") >= RENEWALS
    broken = [path.name for path in run.logs.glob("*.log") if "the connection is broken" in path.read_text()]
    assert broken == []
    # Everybody has to come anew, when nobody takes the first certificates any more.
    (nats,) = of(run, TaskStarted, "nats")
    user.cluster.output("kill", "-9", str(nats.pid), host=head)
    wait_for(lambda: len(of(run, TaskStarted, "nats")) > 1, 60, "NATS is back")
    wait_for(lambda: states(run.path)[-1] == ("READY", "") and len(states(run.path)) > 3, 60, "READY again")
    assert user.trtdist("client", "--prompt", "The capital of France is", host="node4").stdout.strip()
    servers = [event.step for event in SeenRun(run.path).events(StepStarted) if event.step != "nats"]
    assert len(servers) == len(set(servers)) and not of(run, TaskExited, "gen.1.0")
    assert user.trtdist("down").returncode == 0
    assert (user.state()["state"], user.left()) == ("STOPPED", [])
