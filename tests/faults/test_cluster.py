"""Some cells of the matrix on nodes of a real Slurm: tasks of the head node and of another, and the nodes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster import PYTHON, ROOT, Cluster
from tests.end_to_end.seen_run import Kind, SeenRun
from tests.end_to_end.slurm_user import EXAMPLE, READY_S, SHARED, User
from tests.faults.load import load_by
from tests.faults.machine import CUT_S
from tests.faults.place import Target
from tests.faults.runner import PROMPT
from tests.faults.slurm_place import hit_on_node
from tests.supervisor.runs import wait_for
from trtdist.events import Restarting, RunState, StepStarted, TaskStarted

NOTICED_S, CLEAN_S, UP_S = 5.0, 30.0, 120.0
ON_TWO = (*SHARED, "--set", "slurm.extra_sbatch=['--nodelist=node[1-2]']")
SLOW = ("--set", "generation_servers.reference.step_delay=0.2")
ROLES = ("context_servers", "generation_servers", "services.nats", "services.etcd", "router")
AGAIN = [word for role in ROLES for word in ("--set", f"{role}.restart={{policy: on-failure, backoff: 200ms}}")]
AGAIN += ["--set", "launch=per_server"]
# Where nothing of the run is.
ELSEWHERE = "node4"


@pytest.fixture
def user(cluster: Cluster) -> Iterator[User]:
    found = User(cluster)
    yield found
    found.trtdist("down")


@pytest.fixture
def owner(own_cluster: Cluster) -> Iterator[User]:
    """A user who has the cluster for himself."""
    found = User(own_cluster)
    yield found
    found.trtdist("down")


def submit(user: User, *options: str) -> None:
    done = user.trtdist("submit", EXAMPLE, *SHARED, *options)
    assert done.returncode == 0, done.stderr


def events(user: User, kind: type[Kind]) -> list[Kind]:
    return SeenRun(user.run_dir()).events(kind)


def task_of(user: User, name: str) -> TaskStarted | None:
    """The task of that name, None while it has not started."""
    return next((task for task in events(user, TaskStarted) if task.name == name), None)


def hit(user: User, name: str, fault: str) -> float:
    """Cause a fault to a task where it runs, as soon as it does."""
    task = wait_for(lambda: task_of(user, name), READY_S, f"{name} to start")
    hit_on_node(user.cluster, Target(task.host, task.pid), fault)
    return time.monotonic()


def fails_of(user: User, name: str, since: float) -> None:
    """Fail unless the run fails in time, of that task, and leaves nothing."""
    verdict = user.run_dir() / "verdict.json"
    wait_for(verdict.exists, NOTICED_S + CLEAN_S, "a verdict")
    noticed = time.monotonic() - since
    told = json.loads(verdict.read_text())
    assert (told["state"], told["first"]["name"]) == ("FAILED", name), told
    nothing_left(user)
    assert time.monotonic() - since < NOTICED_S + 2 * CLEAN_S
    print(f"told {noticed:.1f} s, clean {time.monotonic() - since:.1f} s")


def nothing_left(user: User) -> None:
    wait_for(lambda: user.left() == [], CLEAN_S, f"{user.left()} to be gone")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, "KILL") for name in ("nats", "etcd", "router", "front", "ctx.0.1", "gen.1.0")),
        *(("etcd", "exit 0"), ("router", "exit 0"), ("gen.1.0", "exit 0"), ("ctx.0.1", "exit 1")),
    ],
)
def test_a_task_that_ends_fails_the_run(user: User, name: str, fault: str) -> None:
    submit(user, "--wait")
    fails_of(user, name, hit(user, name, fault))


@pytest.mark.long
@pytest.mark.parametrize(("name", "fault"), [("nats", "exit 1"), ("ctx.0.1", "KILL"), ("gen.1.0", "exit 0")])
def test_a_task_that_ends_before_the_run_is_ready_fails_it(user: User, name: str, fault: str) -> None:
    submit(user)
    fails_of(user, name, hit(user, name, fault))


@pytest.mark.long
@pytest.mark.parametrize("name", ["nats", "gen.1.0"])
def test_a_task_that_hangs_leaves_with_the_others(user: User, name: str) -> None:
    submit(user, "--wait")
    hit(user, name, "STOP")
    assert user.trtdist("down").returncode == 0
    assert user.state()["state"] == "STOPPED"
    nothing_left(user)


@pytest.mark.long
@pytest.mark.parametrize(("name", "fault"), [("etcd", "exit 1"), ("gen.1.0", "KILL"), ("ctx.0.1", "STOP")])
def test_a_task_that_ends_or_hangs_in_a_stop_changes_nothing(user: User, name: str, fault: str) -> None:
    """The stop waits for a request that is being answered."""
    submit(user, "--wait", *SLOW)
    with started(user, "client", "--prompt", PROMPT, "--max-tokens", "25") as asking:
        assert asking.stdout is not None
        asking.stdout.read(1)
        with started(user, "down") as going:
            wait_for(lambda: is_in(user, "STOPPING"), 30, "STOPPING")
            hit(user, name, fault)
            assert going.wait(2 * CLEAN_S) == 0
    assert user.state()["state"] == "STOPPED"
    nothing_left(user)


@contextmanager
def started(user: User, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    argv = user.cluster.argv(*user.words(*arguments))
    with subprocess.Popen(
        argv, cwd=user.cluster.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.communicate(timeout=2 * CLEAN_S)


def is_in(user: User, state: str) -> bool:
    return any(event.state == state for event in events(user, RunState))


@pytest.mark.long
@pytest.mark.parametrize(("node", "fault"), [("node2", "--network"), ("node1", "--disk"), ("node2", "--disk")])
def test_a_node_that_is_spoilt_for_a_while_stays_in_the_run(owner: User, node: str, fault: str) -> None:
    """node1 is the head node, with etcd's data."""
    submit(owner, "--wait", *ON_TWO)
    owner.cluster.admin("fail", fault, node)
    time.sleep(CUT_S)
    owner.cluster.admin("recover", node)
    asked = owner.trtdist("client", "--prompt", PROMPT, "--max-tokens", "4", host="node3")
    assert asked.returncode == 0 and asked.stdout.strip(), asked.stderr
    assert owner.state()["state"] == "READY"
    assert owner.trtdist("down").returncode == 0
    assert owner.state()["state"] == "STOPPED"
    nothing_left(owner)


@contextmanager
def under_load(user: User) -> Iterator[None]:
    """Requests from another node while in `with`: each gets the right answer or an error, none is lost."""
    python = user.cluster.argv("env", f"PYTHONPATH={ROOT}", PYTHON, host=ELSEWHERE)
    with load_by(python, user.run_dir()) as load:
        known = load.answers()
        yield
    assert len(known) == 1
    wrong = [each for each in load.outcomes if not each.error and each.text not in known]
    assert wrong == []
    failed = len(load.failed())
    print(f"answered {len(load.outcomes) - failed}, failed {failed}")


def ready_again(user: User, step: str) -> bool:
    """Whether a step was started again and the run is as it was."""
    (*_, last) = events(user, RunState)
    began = [event for event in events(user, StepStarted) if event.step == step]
    return len(began) > 1 and (last.state, last.detail) == ("READY", "")


def answers(user: User) -> bool:
    asked = user.trtdist("client", "--prompt", PROMPT, "--max-tokens", "4", host=ELSEWHERE)
    return asked.returncode == 0 and asked.stdout.strip() != ""


def stays_and_goes(user: User) -> None:
    """Fail unless a run answers, maybe again, and leaves nothing when it is asked to end."""
    wait_for(lambda: answers(user), UP_S, "an answer")
    wait_for(lambda: user.state()["state"] == "READY", UP_S, "READY")
    since = time.monotonic()
    assert user.trtdist("down").returncode == 0
    assert user.state()["state"] == "STOPPED"
    nothing_left(user)
    print(f"clean {time.monotonic() - since:.1f} s")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, "KILL") for name in ("gen.1.0", "gen.1.1", "router", "nats", "etcd")),
        *(("ctx.0.1", "exit 1"), ("gen.1.0", "exit 0")),
    ],
)
def test_a_task_that_ends_under_load_is_started_again(user: User, name: str, fault: str) -> None:
    """gen.1 is on the other node."""
    submit(user, "--wait", *AGAIN)
    with under_load(user):
        since = hit(user, name, fault)
        step = next(task.step for task in events(user, TaskStarted) if task.name == name)
        wait_for(lambda: ready_again(user, step), UP_S, f"READY again: {events(user, RunState)[-1]}")
        print(f"told {time.monotonic() - since:.1f} s")
    assert events(user, Restarting)[0].reason.split()[0] == name
    stays_and_goes(user)


@pytest.mark.long
@pytest.mark.parametrize("fault", ["--network", "--disk"])
@pytest.mark.parametrize("node", ["node1", "node2"])
def test_a_node_that_is_spoilt_under_load_stays_in_the_run(owner: User, node: str, fault: str) -> None:
    """What cannot go on meanwhile is started again."""
    submit(owner, "--wait", *ON_TWO, *AGAIN)
    with under_load(owner):
        owner.cluster.admin("fail", fault, node)
        time.sleep(CUT_S)
        owner.cluster.admin("recover", node)
        since = time.monotonic()
        wait_for(lambda: events(owner, RunState)[-1] == RunState("READY"), UP_S, "READY")
        print(f"told {CUT_S + time.monotonic() - since:.1f} s")
    stays_and_goes(owner)
