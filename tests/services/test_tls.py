"""Who has a certificate of the run reaches its services; nobody else does, whatever ports and passwords he knows."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.listening import listening
from tests.services.running import Services
from tests.serving.scripted import until
from trtdist.errors import TrtdistError
from trtdist.events import EventReader, TaskStarted
from trtdist.rundir import RunDir
from trtdist.services.authority import LIFE_S, make_certificates
from trtdist.services.envfile import write_env
from trtdist.services.tls import Certificates, client_context
from trtdist.serving import nats_connection
from trtdist.serving.etcd import EtcdClient, EtcdError
from trtdist.serving.nats_connection import NatsError, connect, connection
from trtdist.serving.run_config import RunConfig

KEY = base64.b64encode(b"secret").decode()


def put_certificates(run: RunDir, left: float = LIFE_S) -> None:
    """Certificates that are valid for so many seconds more."""
    run.secrets.mkdir(parents=True, exist_ok=True)
    for name, text in make_certificates(time.time(), left).items():
        (run.secrets / name).write_text(text)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Both services of a run, in folders whose names need quoting."""
    folder = tmp_path_factory.mktemp("secure") / "a 'b\""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        found = Services(RunDir(folder / "tiny-20260101-000000-abcd"))
    try:
        for service in ("nats", "etcd"):
            found.up(service)
        yield found
    finally:
        found.end()


@pytest.fixture
def stranger(secure: Services, tmp_path: Path) -> RunConfig:
    """Knows every address, and user and password too; the certificates are of another run."""
    run = RunDir(tmp_path / secure.run.run_id)
    put_certificates(run)
    for name in ("nats.user", "nats.password"):
        (run.secrets / name).write_text((secure.run.secrets / name).read_text())
    write_env(run.resolved_env, secure.env)
    return RunConfig.load(run.path)


def ports(services: Services) -> list[int]:
    return [int(value) for name, value in services.env.items() if name.endswith("_PORT")]


def test_the_run_itself_reads_and_sends(secure: Services) -> None:
    async def use() -> None:
        config = RunConfig.load(secure.run.path)
        async with EtcdClient(config.etcd_endpoints, config.etcd_tls) as client:
            await client.put("key", b"value", await client.grant(60))
            found = await client.get("key")
            assert found is not None and found.value == b"value"
        login = config.nats_user, config.nats_password
        async with connection(config.nats_url, *login, "test", tls=config.nats_tls) as nats:
            heard = await nats.subscribe("x")
            await nats.publish("x", b"y")
            assert (await heard.next_msg(60)).data == b"y"

    asyncio.run(use())


def test_a_server_that_closes_a_connection_is_no_reason_for_asyncio_to_complain(
    secure: Services, caplog: pytest.LogCaptureFixture
) -> None:
    async def use() -> None:
        config = RunConfig.load(secure.run.path)
        login = config.nats_user, config.nats_password
        said: list[str] = []
        async with connection(config.nats_url, *login, "test", said.append, tls=config.nats_tls) as nats:
            assert nats._transport is not None
            nats._transport.write(b"NONSENSE\r\n")
            await nats._transport.drain()
            await until(lambda: nats.is_closed or bool(said), 60)

    asyncio.run(use())
    assert "eof_received" not in caplog.text


def test_a_connection_whose_server_was_killed_ends_quietly_with_what_is_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    services = Services(RunDir(tmp_path / "tiny-20260101-000000-abcd"))
    server = services.up("nats")

    async def use() -> None:
        config = RunConfig.load(services.run.path)
        login = config.nats_user, config.nats_password
        said: list[str] = []
        async with connection(config.nats_url, *login, "test", said.append, tls=config.nats_tls) as nats:
            server.kill()
            await until(lambda: bool(said), 60)
            await nats.publish("x", b"y")
        assert nats.is_closed

    try:
        asyncio.run(use())
    finally:
        services.end()


def test_a_connection_ends_quietly_while_it_waits_for_a_server_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(nats_connection, "PING_EVERY_S", 0.1)
    services = Services(RunDir(tmp_path / "tiny-20260101-000000-abcd"))
    services.up("nats")
    records = EventReader(services.run.events).poll()
    (server,) = (each.event.pid for each in records if isinstance(each.event, TaskStarted))

    async def use() -> None:
        config = RunConfig.load(services.run.path)
        login = config.nats_user, config.nats_password
        async with connection(config.nats_url, *login, "test", lambda said: None, tls=config.nats_tls) as nats:
            os.kill(server, signal.SIGSTOP)
            await until(lambda: nats.is_reconnecting, 60)
            await asyncio.sleep(0)
        assert nats.is_closed

    try:
        asyncio.run(use())
    finally:
        services.end()


def test_health_is_that_of_the_run(secure: Services, stranger: RunConfig) -> None:
    for service in ("nats", "etcd"):
        assert secure.health(service).healthy
        other = secure.health(service, TRTDIST_RUN_ID="other-20260101-000000-abcd")
        assert not other.healthy and secure.run.run_id in other.detail
        elsewhere = secure.health(service, TRTDIST_RUN_DIR=str(stranger.run.path))
        assert not elsewhere.healthy and elsewhere.detail


def test_a_foreign_certificate_reads_nothing(secure: Services, stranger: RunConfig) -> None:
    # Even if he believes whatever the server shows.
    for context in (stranger.nats_tls, stranger.etcd_tls):
        assert context is not None
        context.verify_mode = ssl.CERT_NONE

    async def use() -> None:
        async with EtcdClient(stranger.etcd_endpoints, stranger.etcd_tls, seconds=1.0) as client:
            with pytest.raises(EtcdError):
                await client.get("key")
        login = stranger.nats_user, stranger.nats_password
        with pytest.raises(NatsError):
            await connect(stranger.nats_url, *login, "stranger", lambda said: None, seconds=1.0, tls=stranger.nats_tls)

    asyncio.run(use())


def test_a_foreign_server_is_not_trusted(secure: Services, stranger: RunConfig) -> None:
    """The other way round: whoever has taken the port learns no password."""
    files = Certificates.of(stranger.run)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))

    async def ask() -> None:
        async with listening(serve, context) as port:
            url = f"https://127.0.0.1:{port}"
            async with EtcdClient([url], client_context(secure.run), seconds=0.5) as client:
                with pytest.raises(EtcdError):
                    await client.put("key", b"secret")

    asyncio.run(ask())
    assert heard == []


def test_no_port_takes_anybody_without_a_certificate(secure: Services) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    request = json.dumps({"key": KEY})
    for port in ports(secure):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
            answer = b""
            try:
                if port == int(secure.env["TRTDIST_NATS_PORT"]):
                    plain.recv(1 << 16)
                with context.wrap_socket(plain) as channel:
                    channel.sendall(
                        f"POST /v3/kv/range HTTP/1.0\r\nContent-Length: {len(request)}\r\n\r\n{request}".encode()
                    )
                    answer = channel.recv(1 << 16)
            except (ssl.SSLError, ConnectionError):
                pass
        assert answer == b"", port


def test_no_port_speaks_without_tls(secure: Services) -> None:
    for port in ports(secure):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
            plain.sendall(b'CONNECT {"verbose":true}\r\nSUB > 1\r\nPING\r\n' + b"GET /health HTTP/1.0\r\n\r\n")
            answer = b""
            try:
                while piece := plain.recv(1 << 16):
                    answer += piece
            except ConnectionError:
                pass
        assert b"PONG" not in answer and b'"health"' not in answer


def test_no_port_is_open_beside_those_that_are_tried(secure: Services) -> None:
    listening = {
        int(line.split()[1].rpartition(":")[2], 16)
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in sockets(secure)
    }
    assert listening == set(ports(secure))


def sockets(services: Services) -> set[str]:
    """What the servers, the children of the shims, hold open."""
    found = set()
    for shim in services.processes:
        for pid in Path(f"/proc/{shim.pid}/task/{shim.pid}/children").read_text().split():
            found |= {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    return found


def test_the_certificates_are_sound(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    put_certificates(run)
    files = Certificates.of(run)
    assert {path.name for path in run.secrets.iterdir()} == {
        *(path.name for path in (files.authority, files.server, files.client)),
        *(path.name for path in (files.authority_key, files.server_key, files.client_key)),
    }
    trusting = client_context(run)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    assert shakes_hands(trusting, files.server, files.server_key)
    # A client cannot pose as the server.
    assert not shakes_hands(trusting, files.client, files.client_key)


def shakes_hands(client: ssl.SSLContext, certificate: Path, key: Path) -> bool:
    """Whether a client takes a server with that certificate, without a network."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(here, there), context.wrap_bio(there, here, server_side=True)]
    try:
        for side in sides * 3:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError:
        return False
    return sides[0].version() is not None


def test_what_is_missing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrtdistError, match="bring the run up again"):
        client_context(RunDir(tmp_path))


def test_certificates_that_are_over_are_one_sentence(tmp_path: Path) -> None:
    put_certificates(RunDir(tmp_path), left=-60)
    with pytest.raises(TrtdistError, match=r"were valid until \d{4}-\d\d-\d\d, .*: bring the run up again"):
        client_context(RunDir(tmp_path))
