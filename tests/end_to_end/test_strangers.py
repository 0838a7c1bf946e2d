"""Another user of the machine of a run, who knows every port and the login of NATS; and where secrets show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.end_to_end.workplace import TENSOR_PARALLEL, Workplace
from tests.strangers import GREETING, STALLING, answered

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
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and f"socket:[{words[9]}]" in held:
            address, port = words[1].split(":")
            found.append((".".join(map(str, reversed(bytes.fromhex(address)))), int(port, 16)))
    return found


@pytest.mark.long
@pytest.mark.parametrize("launch", ["per_server", "mpi_world"])
def test_another_user_can_neither_read_nor_send_nor_stop(place: Workplace, launch: str) -> None:
    place.up(place.topology(TOPOLOGY.format(launch=launch)))
    run = place.runs()[-1]
    secrets = {path.name: path.read_text().strip() for path in (run / "secrets").iterdir()}
    ports = listening(place.processes())
    # mpiexec of Open MPI 5 has no way to listen on loopback alone; docs/security.md says so.
    ours = listening([pid for pid in place.processes() if "prterun" not in Path(f"/proc/{pid}/comm").read_text()])
    assert {host for host, _ in ours} == {"127.0.0.1"}
    assert len(ours) >= 4
    ports = [("127.0.0.1", port) for _, port in ports]
    known = json.dumps({"user": secrets["nats.user"], "pass": secrets["nats.password"]})
    asking = stranger(GREETING, known, json.dumps(ports))
    said, complaint = asking.communicate(timeout=300)
    assert asking.returncode == 0, complaint
    answers = [json.loads(line) for line in said.splitlines()]
    assert len(answers) > 10 * len(ports)
    assert [answer for answer in answers if answered(answer[3])] == []
    assert any("401" in answer[3].split("\n")[0] for answer in answers)

    stalling = stranger(STALLING, json.dumps(ports))
    assert stalling.stdout is not None
    assert stalling.stdout.readline().strip() == str(100 * len(ports))
    assert place.trtdist("client", "--max-tokens", 4).stdout.strip()
    stalling.communicate(timeout=30)
    assert place.status()["state"] == "READY"


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
