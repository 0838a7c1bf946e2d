"""Deployments whose ranks run in containers of a real image, in every runtime that is there."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.containers.places import chosen, image, own_image, podman_settings, refuse_or_skip
from tests.end_to_end.test_through_slurm import EXAMPLE, READY_S, SHARED, User
from tests.end_to_end.workplace import QUICKSTART, Workplace
from tests.images import linked
from trtdist.services.binaries import find_binary


@dataclass(frozen=True)
class ThisCluster(Cluster):
    """The cluster that this machine submits to; its nodes are reached by Slurm alone."""

    def argv(self, *command: str, host: str = "submit") -> list[str]:
        """A command here, or as a job of its own on a node."""
        return [*([] if host == "submit" else ["srun", "--nodes=1", f"--nodelist={host}"]), *command]


# Podman and docker are for one machine; under Slurm they need more than an image.
THROUGH_SLURM = [name for name in chosen() if name not in ("none", "podman", "docker")]


@pytest.fixture
def user(request: pytest.FixtureRequest) -> Iterator[User]:
    """On the mini cluster, or who runs the tests on the cluster that this machine belongs to."""
    shared = os.environ.get("TRTDIST_TEST_CLUSTER")
    if shared is None:
        yield User(request.getfixturevalue("cluster"))
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield User(ThisCluster(Path(folder)))


def within(runtime: str, image: object) -> tuple[str, ...]:
    return ("--set", f"container.runtime={runtime}", "--set", f"container.image={image}")


def environment(user: User, run: Path, rank: dict[str, str]) -> str:
    """What a rank has in its environment."""
    events = user.cluster.output("cat", str(run / "events" / f"task.{rank['name']}.jsonl")).splitlines()
    started = next(event for event in map(json.loads, events) if event["type"] == "task_started")
    return user.cluster.output("cat", f"/proc/{started['pid']}/environ", host=rank["node"])


@pytest.mark.parametrize("runtime", THROUGH_SLURM)
def test_two_nodes(user: User, runtime: str) -> None:
    """The image has nothing but Python, numpy, mpi4py and Open MPI; the rest comes from the run's site folder."""
    refuse_or_skip(runtime)
    words = user.words("submit", EXAMPLE, *SHARED, "--wait", *within(runtime, image()))
    done = user.cluster.run("env", "SITE_COLOUR=red", "OMPI_MCA_site=1", *words, timeout=READY_S)
    assert done.returncode == 0, done.stderr + user.crashes()
    run = user.run_dir()
    ranks = json.loads(user.trtdist("status", "--json").stdout)["ranks"]
    assert len(ranks) == 8 and len({rank["node"] for rank in ranks}) == 2
    asked = user.trtdist("client", "--prompt", "The capital of France is")
    assert (asked.returncode, asked.stdout.strip() != "") == (0, True), asked.stderr
    assert "SLURM_PROCID" in user.cluster.output("cat", str(run / "logs" / "removed.workers.txt"))
    for rank in ranks:
        names = {entry.split("=")[0] for entry in environment(user, run, rank).split("\0")}
        assert "TRTDIST_RUN_ID" in names and "PMIX_RANK" in names
        assert not names & {"SITE_COLOUR", "OMPI_MCA_site"}
    down = user.trtdist("down")
    assert down.returncode == 0, down.stderr
    assert isinstance(user.cluster, ThisCluster) or user.left() == []


def test_what_one_node_lacks_is_named(user: User) -> None:
    """Only one node has what is to be mounted: /tmp is each node's own."""
    refuse_or_skip("charliecloud")
    name = f"/tmp/{user.cluster.folder.name}"
    one_node = ("--set", "slurm.extra_sbatch=['--nodelist=node1,node2']")
    mount = ("--set", f"container.mounts=['{name}:/mnt']")
    container = within("charliecloud", image())
    user.cluster.output("mkdir", name, host="node1")
    try:
        done = user.trtdist("submit", EXAMPLE, *SHARED, "--wait", *container, *mount, *one_node)
    finally:
        user.cluster.output("rmdir", name, host="node1")
    assert done.returncode == 1
    told = f"node node2 has no {name} to mount: make it there"
    before, _, log = done.stderr.partition("/logs/launch.workers.log:\n")
    assert f"cannot enter its container: {told}" in before, done.stderr
    # As progress, as the state and as the reason, and in the log, however many ranks the node has.
    assert (before.count(told), log.count(told)) == (3, 1), done.stderr
    assert "node node1 has" not in done.stderr
    assert user.left() == []


FAULTS = {"missing": "no image ", "unreadable": "Permission denied", "cut off": "(cut off|bytes of)"}
SQUASHFS = ("pyxis", "enroot")
PLANTED = [(name, fault) for name in THROUGH_SLURM for fault in FAULTS if fault != "cut off" or name in SQUASHFS]


@pytest.mark.long
@pytest.mark.parametrize(("runtime", "fault"), PLANTED)
def test_an_image_that_one_node_cannot_use_is_told_before_ranks_start(user: User, runtime: str, fault: str) -> None:
    """Each node has a copy of its own, as /tmp is."""
    refuse_or_skip(runtime)
    folder = Path("/tmp", user.cluster.folder.name)
    copy = folder / "image"
    one_node = ("--set", "slurm.extra_sbatch=['--nodelist=node1,node2']")
    try:
        for node in ("node1", "node2") if fault != "missing" else ("node1",):
            script = 'mkdir "$0" && cp -r --no-preserve=ownership "$1" "$2"'
            user.cluster.output("bash", "-c", script, str(folder), str(image()), str(copy), host=node)
        if fault == "unreadable":
            user.cluster.output("chmod", "0", str(copy), host="node2")
        elif fault == "cut off":
            user.cluster.output("truncate", "--size=1M", str(copy), host="node2")
        asked = (EXAMPLE, *SHARED, *within(runtime, copy), *one_node)
        told = user.cluster.run(*user.words("doctor", *asked, "--nodes", "--json"), timeout=READY_S)
        begun = user.cluster.run(*user.words("submit", *asked, "--wait"), timeout=READY_S)
    finally:
        for node in ("node1", "node2"):
            user.cluster.output("bash", "-c", 'chmod -f 700 "$0/image"; rm -rf "$0"', str(folder), host=node)
    errors = [found for found in json.loads(told.stdout)["findings"] if found["level"] == "error"]
    assert [(found["code"], found["node"]) for found in errors] == [("image", "node2")], errors
    assert re.search(FAULTS[fault], errors[0]["what"]) and errors[0]["remedy"]
    assert begun.returncode in (1, 4), begun.stderr
    assert re.search(f"node node2 [^\n]*{FAULTS[fault]}[^\n]*: ", begun.stderr), begun.stderr
    assert "node node1 " not in begun.stderr
    assert user.left() == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("left_out", "cause"),
    [
        ("python3*", "trtdist: node node{} finds no python3 in its image: "),
        (
            "mpi4py*",
            " on node{} ended with exit code 1 since the Python of the ranks has no MPI",
        ),
        (
            "mca_pmix_*",
            " on node{} ended with exit code 1 since MPI of the ranks and PMIx of Slurm do not",
        ),
    ],
    ids=["no Python", "no MPI", "no PMIx"],
)
def test_what_an_image_lacks_is_told_with_node_and_remedy(user: User, left_out: str, cause: str) -> None:
    refuse_or_skip("charliecloud")
    lacking = linked(image(), user.cluster.folder / "image", left_out)
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--wait", *within("charliecloud", lacking))
    assert done.returncode == 1
    assert any(cause.format(number) in done.stderr for number in range(1, 5)), done.stderr
    assert "remedy: take an image " in done.stderr
    assert user.left() == []


def test_one_machine(place: Workplace) -> None:
    """Ranks, the router and both services run in containers; the image gets the servers' programs by mounts."""
    refuse_or_skip("charliecloud")
    programs = {name: Path(find_binary(name, os.environ, "")).resolve() for name in ("nats", "etcd")}
    mounts = [f"{path.parent}:/opt/{name}:ro" for name, path in programs.items()]
    settings = [f"container.mounts={mounts}", "container.also=[router, nats, etcd]"]
    settings += [f"services.{name}.binary=/opt/{name}/{path.name}" for name, path in programs.items()]
    words = [word for setting in settings for word in ("--set", setting)]
    place.up(QUICKSTART, *within("charliecloud", image()), *words)
    (run,) = place.runs()
    for name in ("nats", "etcd", "router", "ctx.0.0", "gen.0.0"):
        events = map(json.loads, (run / "events" / f"task.{name}.jsonl").read_text().splitlines())
        pid = next(event["pid"] for event in events if event["type"] == "task_started")
        assert b"TRTDIST_INSIDE=charliecloud" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    asked = place.trtdist("client", "--prompt", "The capital of France is")
    assert asked.stdout.strip() != ""
    place.trtdist("down")
    place.nothing_left()


@pytest.mark.long
def test_one_machine_with_podman(user: User) -> None:
    """As a normal user; killed, the supervisor leaves nothing of the container, which was there."""
    refuse_or_skip("podman")
    settings = [f"{name}={value}" for name, value in podman_settings().items()]
    container = (*within("podman", own_image()), "--set", "container.shm_size=64M")

    def trtdist(*words: str) -> tuple[int, str, str]:
        done = user.cluster.run("env", *settings, *user.words(*words), host="node1", timeout=READY_S)
        return done.returncode, done.stdout, done.stderr

    code, _, told = trtdist("up", str(QUICKSTART), "--local", "--detach", *container)
    assert code == 0, told
    code, said, told = trtdist("client", "--prompt", "The capital of France is")
    assert (code, said.strip() != "") == (0, True), told
    run = user.run_dir()
    there = user.cluster.output("env", *settings, "podman", "ps", "--quiet", host="node1")
    assert there.split() != [], "podman lists no container of a run that serves"
    pid = json.loads(Path(run / "events" / "supervisor.jsonl").read_text().splitlines()[0])["pid"]
    user.cluster.output("kill", "-KILL", str(pid), host="node1")
    itself_not = f"[{run.name[0]}]{run.name[1:]}"
    gone = f"until ! podman ps --quiet | grep -q . && ! pgrep -f '{itself_not}' >/dev/null; do sleep 0.2; done"
    user.cluster.output("env", *settings, "bash", "-c", gone, host="node1", timeout=READY_S)
    assert trtdist("down")[0] in (0, 1)
    assert user.left() == []
