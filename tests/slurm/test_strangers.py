"""Another user on the nodes of a run, who knows every port and the name and password of NATS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import MINICLUSTER, USER
from tests.slurm.test_reaching import Reached, reached

__all__ = ["reached"]

# Which ports a user listens on, on this node: /proc/net/tcp has address and port in hex, the state and the user.
LISTENING = """\
import ipaddress, pwd, sys
uid = str(pwd.getpwnam(sys.argv[1]).pw_uid)
for line in open("/proc/net/tcp").read().splitlines()[1:]:
    words = line.split()
    address, port = words[1].split(":")
    # Those of srun itself are Slurm's, see SrunPortRange.
    if words[3] == "0A" and words[7] == uid and not 61000 <= int(port, 16) <= 61999:
        print(ipaddress.ip_address(bytes.fromhex(address)[::-1]), int(port, 16))
"""
# What each port answers to each of several greetings, in clear and in TLS, first line only.
GREETING = """\
import json, socket, ssl, sys
login, ports = json.loads(sys.argv[1]), json.loads(sys.argv[2])
def post(path, body):
    head = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\\r\\n".join([*head, "", body]).encode()
connect = "CONNECT " + json.dumps({"verbose": True, **login})
nats = "\\r\\n".join([connect, "SUB > 1", "PUB x 1", "y", "PING", ""]).encode()
asked = [nats, post("/v3/kv/range", '{"key": "AA==", "range_end": "AA=="}'), post("/v3/lease/leases", "{}"),
         post("/v1/completions", '{"model": "reference/tiny", "prompt": "x"}')]
everybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
everybody.check_hostname, everybody.verify_mode = False, ssl.CERT_NONE
def greet(host, port, words, tls):
    with socket.create_connection((host, port), timeout=5) as plain:
        plain.settimeout(1)
        if tls and words is nats:
            plain.recv(4096)
        connection = everybody.wrap_socket(plain) if tls else plain
        connection.sendall(words)
        answer = b""
        try:
            while len(answer) < 8192 and (data := connection.recv(4096)):
                answer += data
        except OSError as error:
            # A server may keep the connection open, and nobody listens to a handshake that it refuses.
            answer += f" ({error})".encode()
        return answer.decode("latin-1")
for host, port in ports:
    for words in asked:
        for tls in (False, True):
            try:
                said = greet(host, port, words, tls)
            except OSError as error:
                said = f"error: {error}"
            print(json.dumps([port, words.decode().split()[1], tls, said]))
"""


def on_node(node: str, user: str, *words: str) -> str:
    argv = [sys.executable, str(MINICLUSTER), "exec", "--user", user, node, sys.executable, "-I", "-S", "-c", *words]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=180, check=False)
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
    assert [answer for answer in answers if "PONG" in answer[3] or "MSG" in answer[3] or " 200 OK" in answer[3]] == []
    assert any("401" in said.splitlines()[0] for *_, said in answers if said)
    assert reached.state() == "READY"
    asked = reached.trtdist("client", "--run", f"{reached.run}/", "--max-tokens", "4")
    assert asked.stdout.strip()
