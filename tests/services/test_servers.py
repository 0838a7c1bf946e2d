"""The servers that a run starts, as they really are."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.services.running import Services, wait_for
from trtdist.events import TaskExited, TaskStarted, decode
from trtdist.process import ProcessId
from trtdist.services.tls import client_context

SERVICES = ["nats", "etcd"]


def etcd(services: Services, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What etcd's JSON gateway answers."""
    request = urllib.request.Request(services.env["ETCD_ENDPOINTS"] + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60, context=client_context(services.run)) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def program(services: Services, service: str) -> ProcessId:
    """The server itself, as its shim names it."""
    line = services.run.event_file(f"task.{service}").read_text().splitlines()[0]
    record = decode(line)
    assert record is not None and isinstance(record.event, TaskStarted)
    return ProcessId(record.event.pid, record.event.started)


def test_nats_is_configured(shared: Services) -> None:
    with socket.create_connection(("127.0.0.1", int(shared.env["TRTDIST_NATS_PORT"])), timeout=60) as client:
        found = json.loads(client.makefile("rb").readline()[len("INFO ") :])
    assert found["server_name"] == shared.run.run_id
    assert found["max_payload"] == 8 * 1024 * 1024
    assert found["host"] == "127.0.0.1"
    assert found["auth_required"] is found["tls_required"] is found["tls_verify"] is found["jetstream"] is True
    assert list((shared.local / "nats").iterdir())


def test_nats_takes_its_own_user_and_keeps_streams(shared: Services) -> None:
    async def check() -> None:
        secrets = shared.run.secrets
        user, password = (secrets / "nats.user").read_text(), (secrets / "nats.password").read_text()
        context = client_context(shared.run)
        client = await nats.connect(shared.env["NATS_SERVER"], user=user, password=password, tls=context)
        assert client.max_payload == 8 * 1024 * 1024
        streams = client.jetstream()
        await streams.add_stream(name="kept", subjects=["kept"])
        assert (await streams.publish("kept", b"x")).seq == 1
        await client.close()

    asyncio.run(check())


@pytest.mark.parametrize("login", [{}, {"user": "someone", "pass": "guess"}, {"user": "", "pass": ""}])
def test_nats_takes_nobody_else(shared: Services, login: dict[str, str]) -> None:
    with socket.create_connection(("127.0.0.1", int(shared.env["TRTDIST_NATS_PORT"])), timeout=60) as plain:
        plain.recv(4096)
        # Even with a certificate of the run.
        with client_context(shared.run).wrap_socket(plain) as client:
            client.sendall(b"CONNECT %s\r\nPING\r\n" % json.dumps({"verbose": False, **login}).encode())
            answer = b""
            while piece := client.recv(4096):
                answer += piece
    assert b"Authorization Violation" in answer and b"PONG" not in answer


def test_etcd_has_leases_and_keys(shared: Services) -> None:
    members = etcd(shared, "/v3/cluster/member/list", {})["members"]
    assert [member["name"] for member in members] == [shared.run.run_id]
    assert members[0]["clientURLs"] == [shared.env["ETCD_ENDPOINTS"]]
    lease = etcd(shared, "/v3/lease/grant", {"TTL": 5})["ID"]
    key = base64.b64encode(b"key").decode()
    etcd(shared, "/v3/kv/put", {"key": key, "value": key, "lease": lease})
    assert etcd(shared, "/v3/kv/range", {"key": key})["count"] == "1"
    etcd(shared, "/v3/lease/revoke", {"ID": lease})
    assert "count" not in etcd(shared, "/v3/kv/range", {"key": key})


def test_a_stalled_etcd_keeps_its_term_and_its_leases(shared: Services) -> None:
    lease = etcd(shared, "/v3/lease/grant", {"TTL": 10})["ID"]
    term = etcd(shared, "/v3/maintenance/status", {})["raftTerm"]
    server = program(shared, "etcd")
    server.signal(signal.SIGSTOP)
    time.sleep(0.8)  # three elections long
    server.signal(signal.SIGCONT)
    assert int(etcd(shared, "/v3/lease/keepalive", {"ID": lease})["result"]["TTL"]) == 10
    assert etcd(shared, "/v3/maintenance/status", {})["raftTerm"] == term


@pytest.mark.parametrize("service", SERVICES)
def test_it_listens_on_loopback_alone(shared: Services, service: str) -> None:
    pid = program(shared, service).pid
    sockets = {os.readlink(entry) for entry in _descriptors(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, _, port = fields[1].partition(":")
                found.add((address, int(port, 16)))
    names = {"nats": ("NATS_PORT",), "etcd": ("ETCD_PORT", "ETCD_PEER_PORT")}[service]
    assert found == {("0100007F", int(shared.env[f"TRTDIST_{name}"])) for name in names}


def _descriptors(pid: int) -> list[Path]:
    return [entry for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]


@pytest.mark.parametrize("service", SERVICES)
def test_the_shims_child_is_the_server_and_shows_no_secret(shared: Services, service: str) -> None:
    pid = program(shared, service).pid
    assert Path(f"/proc/{pid}/exe").resolve().name == {"nats": "nats-server", "etcd": "etcd"}[service]
    secret = (shared.run.secrets / "nats.password").read_bytes()
    assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert secret not in Path(f"/proc/{pid}/environ").read_bytes()
    assert secret.decode() not in shared.log(service)
    config = shared.local / {"nats": "nats.conf", "etcd": "etcd.yaml"}[service]
    assert config.stat().st_mode & 0o777 == 0o600


def test_etcd_complains_about_nothing_of_ours(shared: Services) -> None:
    assert "unrecognized" not in shared.log("etcd")
    assert "ERROR" not in shared.log("nats")


@pytest.mark.parametrize("service", SERVICES)
def test_odd_folders_do_no_harm_and_int_ends_it(services: Services, service: str) -> None:
    process = services.up(service)
    process.send_signal(signal.SIGTERM)
    server = program(services, service)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (0, 128 + signal.SIGINT)
    assert not server.alive()
    end = decode(services.run.event_file(f"task.{service}").read_text().splitlines()[1])
    assert end is not None and isinstance(end.event, TaskExited)
    assert services.health(service).detail.startswith("cannot be reached")


@pytest.mark.parametrize("service", SERVICES)
def test_a_taken_port_ends_it(services: Services, service: str) -> None:
    with socket.create_server(("127.0.0.1", int(services.env[f"TRTDIST_{service.upper()}_PORT"]))):
        assert services.start(service).wait(60) != 0
    assert "address already in use" in services.log(service)


def test_idle_servers_use_next_to_nothing(shared: Services) -> None:
    pids = [program(shared, service).pid for service in SERVICES]

    def ticks() -> int:
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
        return sum(int(each[11]) + int(each[12]) for each in fields)

    def rests() -> bool:
        before, began = ticks(), time.monotonic()
        time.sleep(1)
        share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
        return share < 0.04

    wait_for(rests, "a second with less than 4 % of a core for both")


@pytest.mark.parametrize("arguments", [[], ["nats"], ["mysql", "x"], ["nats", "/nonexistent"]])
def test_wrong_arguments_are_one_sentence(services: Services, arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "trtdist.services", *arguments], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("trtdist: ") and done.stderr.count("\n") == 1


def test_a_missing_secret_is_one_sentence(services: Services) -> None:
    (services.run.secrets / "nats.password").unlink()
    assert services.start("nats").wait(60) == 1
    assert "nats.password cannot be read" in services.log("nats") and services.log("nats").count("\n") == 1


def test_a_server_that_cannot_be_started_is_one_sentence(services: Services) -> None:
    services.run.resolved_env.write_text(
        services.run.resolved_env.read_text() + "TRTDIST_ETCD_BINARY=/nonexistent/etcd\n"
    )
    assert services.start("etcd").wait(60) == 1
    assert services.log("etcd") == "trtdist: /nonexistent/etcd: No such file or directory\n"
