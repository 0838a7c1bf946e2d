"""Another user on the nodes of a run, who knows every port and the name and password of NATS."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import MINICLUSTER, PYTHON, USER, Cluster
from tests.slurm.test_reaching import TOKEN, TOPOLOGY, Reached, reached, up
from tests.strangers import GREETING, LISTENING, POSING, answered
from tests.supervisor.runs import wait_for

__all__ = ["reached"]


# What anybody may see of every process.
PROCESSES = """
import pathlib
for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
        print(path.read_bytes().replace(bytes(1), b" ").decode("utf-8", "replace"))
    except OSError:
        pass
"""


def on_node(node: str, user: str, *words: str) -> str:
    argv = [sys.executable, str(MINICLUSTER), "exec", "--user", user, node, sys.executable, "-I", "-S", "-c", *words]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_another_user_can_neither_read_nor_send(reached: Reached) -> None:
    env = dict(line.split("=", 1) for line in (reached.run / "resolved.env").read_text().splitlines())
    login = {"user": "nats.user", "pass": "nats.password"}
    known = {key: (reached.run / "secrets" / name).read_text().strip() for key, name in login.items()}
    named = {int(value.strip("'")) for name, value in env.items() if name.endswith("_PORT")}
    answers, hosts = [], set()
    for node in env["TRTDIST_NODES"].strip("'").split():
        ports = [line.split() for line in on_node(node, "root", LISTENING, USER).splitlines()]
        named -= {int(port) for _, port in ports}
        hosts |= {host for host, _ in ports}
        pairs = [(host, int(port)) for host, port in ports]
        said = on_node(node, "nobody", GREETING, json.dumps(known), json.dumps(pairs))
        answers += [json.loads(line) for line in said.splitlines()]
        read = ["import os, sys; print(os.access(sys.argv[1], os.R_OK), os.access(sys.argv[2], os.R_OK))"]
        local = Path(env["TRTDIST_LOCAL_DIR"].strip("'"))
        assert on_node(node, "nobody", *read, str(reached.run / "secrets"), str(local)) == "False False\n"
    # Ranks on one node need no port for MPI, which would be open everywhere.
    assert "0.0.0.0" not in hosts
    # NATS, etcd and the front end were among them, and ports of the servers besides.
    assert named == set() and len({port for port, *_ in answers}) > len(login) + 2
    assert [answer for answer in answers if answered(answer[3])] == []
    assert any("401" in said.splitlines()[0] for *_, said in answers if said)
    assert reached.state() == "READY"
    asked = reached.trtdist("client", "--run", f"{reached.run}/", "--max-tokens", "4")
    assert asked.stdout.strip()


@pytest.fixture
def world(cluster: Cluster) -> Iterator[Reached]:
    """A run whose ranks on two nodes are one MPI world."""
    text = TOPOLOGY.replace("per_server", "mpi_world").replace("name: reached", "name: world") % TOKEN
    yield from up(cluster, text)


@contextlib.contextmanager
def posing(world: Reached, how: str) -> Iterator[None]:
    """Somebody on each node who holds connections to all ports of MPI."""
    env = dict(line.split("=", 1) for line in (world.run / "resolved.env").read_text().splitlines())
    posers = []
    for node in env["TRTDIST_NODES"].strip("'").split():
        listening = [line.split() for line in on_node(node, "root", LISTENING, USER).splitlines()]
        ports = [("127.0.0.1", int(port)) for host, port in listening if host == "0.0.0.0"]
        assert ports, "MPI across nodes listens everywhere"
        argv = [sys.executable, str(MINICLUSTER), "exec", "--user", "nobody", node]
        argv += [sys.executable, "-I", "-S", "-c", POSING, json.dumps(ports), how]
        posers.append(subprocess.Popen(argv, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    try:
        for each in posers:
            assert each.stdout is not None and int(each.stdout.readline()) > 2
        yield
    finally:
        for each in posers:
            each.communicate(timeout=60)


@pytest.mark.long
def test_who_poses_as_a_rank_changes_no_answer(world: Reached) -> None:
    ask = ["client", "--run", f"{world.run}/", "--max-tokens", "16", "--temperature", "0"]
    right = world.trtdist(*ask).stdout
    with posing(world, "whole"):
        for _ in range(3):
            assert world.trtdist(*ask).stdout == right
    # Who says half of a greeting holds a rank up, as docs/security.md says, and no longer than he is there.
    with posing(world, "halves"):
        waiting = world.cluster.run(PYTHON, "-m", "trtdist.cli", *ask, "--timeout", "5", timeout=90)
        assert waiting.returncode == 1 or waiting.stdout == right
    wait_for(lambda: world.cluster.run(PYTHON, "-m", "trtdist.cli", *ask, timeout=90).stdout == right, 120, "answers")
    assert world.state() == "READY"


@pytest.mark.long
def test_slurm_and_the_process_list_show_no_secret(reached: Reached) -> None:
    kept = [path.read_bytes().decode("latin-1").strip() for path in (reached.run / "secrets").iterdir()]
    assert any(TOKEN in text for text in kept)
    hidden = [TOKEN, *(line for text in kept for line in text.splitlines() if len(line) >= 16 and "-----" not in line)]
    shown = {
        "job": reached.cluster.output("scontrol", "show", "job", "--details", reached.job),
        "steps": reached.cluster.output("scontrol", "show", "step", reached.job),
        "queue": reached.cluster.output(
            "squeue", "--jobs", reached.job, "--Format", "Name:200,Command:2000,Comment:2000"
        ),
        "batch script": reached.cluster.output("scontrol", "write", "batch_script", reached.job, "-"),
    }
    nodes = dict(line.split("=", 1) for line in (reached.run / "resolved.env").read_text().splitlines())[
        "TRTDIST_NODES"
    ]
    for node in nodes.strip("'").split():
        shown[node] = on_node(node, "nobody", PROCESSES)
        assert "trtdist" in shown[node]
    assert reached.job in shown["job"] and "StepId" in shown["steps"] and "#SBATCH" in shown["batch script"]
    assert [(name, text) for name, text in shown.items() for secret in hidden if secret in text] == []
