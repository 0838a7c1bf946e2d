"""Another user of a machine of a run, who knows every port and the login of NATS; and where secrets show."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.end_to_end.slurm_user import EXAMPLE, READY_S, SHARED, User
from tests.end_to_end.workplace import TENSOR_PARALLEL, Workplace
from tests.slurm.test_strangers import argv_on, on_node
from tests.strangers import GREETING, KNOCKING, NOISE, OF_RUN, STALLING, answered
from tests.supervisor.runs import wait_for
from trtdist.services.envfile import read_env

CANARY = "canary-4f1c7d0be9"
TOPOLOGY = TENSOR_PARALLEL + f"container: {{{{env: {{{{HF_TOKEN: {CANARY}, SHOWN: shown-9d2}}}}}}}}\n"


def as_nobody() -> None:
    """In the child: another user, where the tests may become one; else the same without any file of the run."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def stranger(*words: str) -> subprocess.Popen[str]:
    """A Python of the system's, since another user may not see ours."""
    python = "/usr/bin/python3" if os.getuid() == 0 else sys.executable
    return subprocess.Popen(
        [python, "-I", "-S", "-c", *words],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_nobody,
    )


def listening(pids: Sequence[int]) -> list[tuple[str, int]]:
    """Address and port of each socket at which one of these processes listens; proc_net_tcp(5)."""
    links = (entry for pid in pids for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink())
    held = {os.readlink(link) for link in links}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in held:
                address, port = words[1].split(":")
                found.append((_address(address), int(port, 16)))
    return found


def _address(words: str) -> str:
    """Words of four bytes, each the other way round."""
    data = bytes.fromhex(words)
    return str(ipaddress.ip_address(b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))))


def reachable(host: str) -> str:
    """Where a socket that listens everywhere is found on this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def is_mpiexec(pid: int) -> bool:
    return "prterun" in Path(f"/proc/{pid}/comm").read_text()


def answer(place: Workplace) -> str:
    """What the run says to a prompt, always the same."""
    return place.trtdist("client", "--max-tokens", 16, "--temperature", 0).stdout.strip()


@pytest.mark.long
@pytest.mark.parametrize("launch", ["per_server", "mpi_world"])
def test_another_user_can_neither_read_nor_send_nor_stop(place: Workplace, launch: str) -> None:
    place.up(place.topology(TOPOLOGY.format(launch=launch)))
    run = place.runs()[-1]
    right = answer(place)
    secrets = {path.name: path.read_text().strip() for path in (run / "secrets").iterdir()}
    ours = listening([pid for pid in place.processes() if not is_mpiexec(pid)])
    assert {host for host, _ in ours} == {"127.0.0.1"}
    assert len(ours) >= 4
    known = json.dumps({"user": secrets["nats.user"], "pass": secrets["nats.password"]})
    asking = stranger(GREETING, known, json.dumps(ours))
    while asking.poll() is None:
        assert answer(place) == right
    said, complaint = asking.communicate(timeout=300)
    assert asking.returncode == 0, complaint
    answers = [json.loads(line) for line in said.splitlines()]
    assert len(answers) > 10 * len(ours)
    assert [each for each in answers if answered(each[3])] == []
    assert any("401" in each[3].split("\n")[0] for each in answers)

    stalling = stranger(STALLING, json.dumps(ours))
    assert stalling.stdout is not None
    assert stalling.stdout.readline().strip() == str(100 * len(ours))
    assert answer(place) == right
    stalling.communicate(timeout=30)
    assert place.status()["state"] == "READY"


@pytest.mark.long
@pytest.mark.parametrize("launch", ["per_server", "mpi_world"])
def test_nobody_gets_through_to_mpiexec(place: Workplace, launch: str) -> None:
    place.up(place.topology(TOPOLOGY.format(launch=launch)))
    doors = listening([pid for pid in place.processes() if is_mpiexec(pid)])
    assert {host for host, _ in doors} > {"127.0.0.1", "0.0.0.0"}
    there = socket.gethostbyname(socket.gethostname())
    asked = [(reachable(host), port) for host, port in doors]
    asked += [(there, port) for host, port in doors if host == "0.0.0.0"]
    host, port = listening([pid for pid in place.processes() if not is_mpiexec(pid)])[0]
    said, complaint = stranger(KNOCKING, json.dumps([*asked, (host, port)])).communicate(timeout=300)
    assert complaint == ""
    assert said.split() == [host, str(port)]
    assert answer(place)


@pytest.mark.long
def test_no_secret_shows(place: Workplace) -> None:
    shown = place.up(place.topology(TOPOLOGY.format(launch="per_server")))
    run = place.runs()[-1]
    hidden = {"canary": CANARY}
    for path in (run / "secrets").iterdir():
        if path.suffix != ".pem":  # a certificate is no secret; of its key a line in the middle is looked for
            lines = path.read_text().splitlines()
            hidden[path.name] = lines[1 if lines[0].startswith("-----") else 0]
    shown += place.trtdist("status", "--json").stdout + place.trtdist("url").stdout
    shown += place.trtdist("client", "--max-tokens", 4).stdout
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in place.processes()}
    given = [pid for pid in commands if CANARY.encode() in Path(f"/proc/{pid}/environ").read_bytes()]
    place.trtdist("down")
    files = {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file() and run / "secrets" not in path.parents
    }
    assert given, "the ranks have it"
    assert any(b"shown-9d2" in content for content in files.values())
    for name, secret in hidden.items():
        assert secret not in shown, name
        assert [path for path, content in files.items() if secret.encode() in content] == [], name
        assert [line for line in commands.values() if secret.encode() in line] == [], name
    assert [path.stat().st_mode & 0o777 for path in (run, run / "secrets")] == [0o700, 0o700]
    assert {path.stat().st_mode & 0o777 for path in (run / "secrets").iterdir()} == {0o600}


def ports(user: User, nodes: dict[str, str]) -> dict[str, list[tuple[str, int]]]:
    """Where the newest run listens on nodes, which have their addresses: by the words of `OF_RUN`."""
    found: dict[str, list[tuple[str, int]]] = {}
    for node, address in nodes.items():
        for line in on_node(node, "root", OF_RUN, f"TRTDIST_RUN_ID={user.run_dir().name}").splitlines():
            kind, port = line.split()
            found.setdefault(kind, []).append((address, int(port)))
    return found


def knock(user: User, nodes: dict[str, str], node: str) -> str:
    """Who of MPI of the newest run lets another user in, on one of its nodes."""
    mpi = ports(user, nodes)["tcp"]
    # Nothing else of a run listens everywhere.
    assert len(mpi) == 8, "one for each rank"
    here = [("127.0.0.1", port) for address, port in mpi if address == nodes[node]]
    return on_node(node, "nobody", KNOCKING, json.dumps(here + mpi))


def again(user: User) -> bool:
    """Whether the servers of a run have been started again and serve."""
    state = user.state()
    servers: list[dict[str, object]] = state["servers"]
    return state["state"] == "READY" and all(server["restarts"] == 1 for server in servers)


@pytest.mark.long
def test_nobody_gets_through_to_a_world_on_several_nodes(cluster: Cluster) -> None:
    user = User(cluster)
    restart = [f"{role}_servers.restart={{policy: on-failure}}" for role in ("context", "generation")]
    done = user.trtdist("submit", EXAMPLE, *SHARED, "--wait", *(word for each in restart for word in ("--set", each)))
    assert done.returncode == 0, done.stderr + user.crashes()
    env = read_env(user.run_dir() / "resolved.env")
    nodes = dict(zip(env["TRTDIST_NODES"].split(), env["TRTDIST_ADDRESSES"].split(), strict=True))
    assert len(nodes) == 2
    ask = ("client", "--max-tokens", 16, "--temperature", 0)
    right = user.trtdist(*ask).stdout
    for node in nodes:
        assert knock(user, nodes, node) == ""
        every = [place for places in ports(user, nodes).values() for place in places]
        argv = argv_on(node, "nobody", NOISE, json.dumps(every))
        noise = subprocess.Popen(argv, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert user.trtdist(*ask).stdout == right
        assert noise.stdout is not None
        assert int(noise.stdout.readline()) > len(nodes)
        assert user.trtdist(*ask).stdout == right
        noise.communicate(timeout=60)
        assert noise.returncode == 0
    assert user.state()["state"] == "READY"

    # The next life of the world closes its own.
    ranks: list[dict[str, object]] = user.state()["ranks"]
    last = next(rank for rank in ranks if rank["name"] == "gen.1.1")
    user.cluster.output("kill", "-9", str(last["pid"]), host=str(last["node"]))
    wait_for(lambda: again(user), READY_S, "the next life")
    assert knock(user, nodes, next(iter(nodes))) == ""
    assert user.trtdist(*ask).stdout == right
    assert user.trtdist("down").returncode == 0
    assert user.left() == []
