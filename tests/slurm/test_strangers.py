"""Another user on the nodes of a run, who knows every port and the name and password of NATS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import MINICLUSTER, USER
from tests.slurm.test_reaching import Reached, reached
from tests.strangers import GREETING, LISTENING, answered

__all__ = ["reached"]


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
    answers = []
    for node in env["TRTDIST_NODES"].strip("'").split():
        ports = [line.split() for line in on_node(node, "root", LISTENING, USER).splitlines()]
        named -= {int(port) for _, port in ports}
        pairs = [(host, int(port)) for host, port in ports]
        said = on_node(node, "nobody", GREETING, json.dumps(known), json.dumps(pairs))
        answers += [json.loads(line) for line in said.splitlines()]
        read = ["import os, sys; print(os.access(sys.argv[1], os.R_OK), os.access(sys.argv[2], os.R_OK))"]
        local = Path(env["TRTDIST_LOCAL_DIR"].strip("'"))
        assert on_node(node, "nobody", *read, str(reached.run / "secrets"), str(local)) == "False False\n"
    # NATS, etcd and the front end were among them, and ports of the servers besides.
    assert named == set() and len({port for port, *_ in answers}) > len(login) + 2
    assert [answer for answer in answers if answered(answer[3])] == []
    assert any("401" in said.splitlines()[0] for *_, said in answers if said)
    assert reached.state() == "READY"
    asked = reached.trtdist("client", "--run", f"{reached.run}/", "--max-tokens", "4")
    assert asked.stdout.strip()
