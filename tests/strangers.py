"""What another user tries who knows every port of a run, and the login of NATS: programs for `python -c`."""

from __future__ import annotations

import select
import socket

__all__ = ["GREETING", "KNOCKING", "LISTENING", "NOISE", "OF_RUN", "STALLING", "answered", "let_in"]

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
everything = '{"key": "AA==", "range_end": "AA=="}'
asked = [nats, post("/v1/completions", '{"model": "reference/tiny", "prompt": "x"}'),
         post("/v3/kv/range", everything), post("/v3/kv/put", '{"key": "eA==", "value": "eA=="}'),
         post("/v3/kv/deleterange", everything), post("/v3/watch", '{"create_request": %s}' % everything),
         post("/v3/lease/leases", "{}"), post("/v3/lease/grant", '{"TTL": "600"}'),
         post("/v3/lease/revoke", '{"ID": "1"}'), post("/v3/maintenance/status", "{}"),
         post("/v3/maintenance/defragment", "{}"), post("/v3/auth/enable", "{}"), post("/v3/cluster/member/list", "{}"),
         *(f"GET {path} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode() for path in ("/varz", "/connz?subs=1", "/metrics")),
         b"\\0" * 64 + b" junk\\r\\n\\r\\n", b"\\xff\\xff\\xff\\xff junk \\xff" * 64]
everybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
everybody.check_hostname, everybody.verify_mode = False, ssl.CERT_NONE
def greet(host, port, words, tls):
    with socket.create_connection((host, port), timeout=5) as plain:
        plain.settimeout(0.3)
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
            print(json.dumps([port, words.decode("latin-1").split()[1], tls, said]))
"""
# Holds many connections to each port, which say nothing, until its input ends.
STALLING = """\
import json, socket, sys
held = [socket.create_connection((host, port), timeout=5) for host, port in json.loads(sys.argv[1]) for _ in range(100)]
print(len(held), flush=True)
sys.stdin.read()
"""
# Where the processes of a run listen on this node: over `tcp` or `tcp6` on all interfaces, or `elsewhere`, and the
# port; `slurm` stands before those that several of them have, which they inherit.
OF_RUN = """\
import collections, os, sys
ports, held = {}, collections.Counter()
for name in ("tcp", "tcp6"):
    for row in open("/proc/net/" + name).read().splitlines()[1:]:
        words = row.split()
        if words[3] == "0A":
            address, port = words[1].split(":")
            ports["socket:[" + words[9] + "]"] = ("elsewhere" if address.strip("0") else name, int(port, 16))
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        ours = sys.argv[1] in open("/proc/" + pid + "/environ").read()
        links = {os.readlink("/proc/" + pid + "/fd/" + each) for each in os.listdir("/proc/" + pid + "/fd")}
    except OSError:
        continue
    if ours and "srun" not in open("/proc/" + pid + "/comm").read():
        held.update(link for link in links if link in ports)
for link, count in held.items():
    kind, port = ports[link]
    print("slurm" if count > 1 else kind, port)
"""
# Noise at each of these ports, and the beginning of Open MPI's greeting; connections stay until its input ends.
NOISE = """\
import json, socket, sys
said = (b"", bytes(8) + b"OPAL", b"\\xff junk " * 4096, bytes(4096), b"GET / HTTP/1.1\\r\\n\\r\\n")
held = []
for host, port in json.loads(sys.argv[1]):
    for words in said:
        try:
            held.append(socket.create_connection((host, port), timeout=0.5))
            held[-1].sendall(words)
        except OSError:
            pass
print(len(held), flush=True)
sys.stdin.read()
"""
# Which of these ports take a connection.
KNOCKING = """\
import json, socket, sys
for host, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((host, port), timeout=2).close()
        print(host, port)
    except OSError:
        pass
"""


def answered(said: str) -> bool:
    """Whether what a port said is more than a refusal."""
    return "PONG" in said or "MSG" in said or " 200 OK" in said


def let_in(host: str, port: int, seconds: float = 0.2) -> bool:
    """Whether a port of this machine takes a connection; the kernel makes it at once."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as caller:
        caller.setblocking(False)
        caller.connect_ex((host, port))
        _, ready, _ = select.select([], [caller], [], seconds)
        return bool(ready) and caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
