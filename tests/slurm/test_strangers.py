"""Another user on the nodes of a run, who knows every port and the name and password of NATS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import MINICLUSTER, USER
from tests.slurm.test_reaching import TOKEN, Reached, reached
from tests.strangers import GREETING, LISTENING, answered

__all__ = ["argv_on", "on_node", "reached"]


# What anybody may see of every process.
PROCESSES = """
import pathlib
for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
        print(path.read_bytes().replace(bytes(1), b" ").decode("utf-8", "replace"))
    except OSError:
        pass
"""


def argv_on(node: str, user: str, *words: str) -> list[str]:
    """A Python of a user on a node."""
    return [sys.executable, str(MINICLUSTER), "exec", "--user", user, node, sys.executable, "-I", "-S", "-c", *words]


def on_node(node: str, user: str, *words: str) -> str:
    """What it prints."""
    done = subprocess.run(
        argv_on(node, user, *words), cwd="/", capture_output=True, text=True, timeout=600, check=False
    )
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
