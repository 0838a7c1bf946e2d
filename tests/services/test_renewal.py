"""The certificates of a run are renewed under its servers and clients, which go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.services.running import Services
from tests.serving.scripted import until
from trtdist.errors import TrtdistError
from trtdist.rundir import RunDir
from trtdist.services import renewal
from trtdist.services.authority import LIFE_S, main, make_certificates
from trtdist.services.renewal import NotRenewedError, renew
from trtdist.services.tls import Certificates, client_context, validity
from trtdist.serving.direct import DirectClient
from trtdist.serving.etcd import EtcdClient
from trtdist.serving.nats_connection import NatsError, connect, connection
from trtdist.serving.run_config import RunConfig
from trtdist.supervisor.resolve import resolve

CERTIFICATES = ("client.pem", "server.pem")


def put(run: RunDir, signed_ago: float = 0.0, life: float = LIFE_S) -> Certificates:
    """Certificates that were signed so many seconds ago."""
    run.secrets.mkdir(parents=True, exist_ok=True)
    for name, text in make_certificates(time.time() - signed_ago, life).items():
        (run.secrets / name).write_text(text)
    return Certificates.of(run)


def contents(run: RunDir) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.secrets.iterdir()}


def test_what_is_valid_for_long_is_left_alone(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    put(run, LIFE_S * 0.4)
    before = contents(run)
    found = renew(run)
    assert found is not None and not found.done
    assert found.again_in == pytest.approx(LIFE_S * 0.1, abs=60)
    assert contents(run) == before


@pytest.mark.parametrize("ago", [0.6, 1.5])
def test_certificates_and_no_keys_are_renewed_when_half_of_the_life_is_over(tmp_path: Path, ago: float) -> None:
    run = RunDir(tmp_path)
    files = put(run, LIFE_S * ago)
    old, before = contents(run), [validity(path) for path in (files.server, files.client)]
    found = renew(run)
    assert found is not None and found.done
    assert found.again_in == pytest.approx(LIFE_S / 2, abs=60)
    new = contents(run)
    assert {name for name in new if new[name] != old[name]} == set(CERTIFICATES)
    assert set(new) == set(old)
    for (begins, ends), path in zip(before, (files.server, files.client)):
        assert [end - begin for begin, end in (validity(path), (begins, ends))] == [ends - begins] * 2
        assert validity(path)[1] == pytest.approx(time.time() + LIFE_S, abs=60)
        assert path.stat().st_mode & 0o777 == 0o600
    client_context(run)


def test_a_run_without_certificates_has_nothing_to_renew(tmp_path: Path) -> None:
    assert renew(RunDir(tmp_path)) is None


@pytest.mark.parametrize(("ago", "over"), [(0.6, False), (1.5, True)])
def test_what_cannot_be_renewed_is_one_sentence(tmp_path: Path, ago: float, over: bool) -> None:
    run = RunDir(tmp_path)
    files = put(run, LIFE_S * ago)
    files.authority_key.unlink()
    sentence = r"valid until \d{4}-\d\d-\d\d, could not be renewed: .*/ca.key: No such"
    with pytest.raises(NotRenewedError, match=sentence) as told:
        renew(run)
    assert told.value.over == over


def test_a_python_without_the_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path / "run")
    put(run, LIFE_S * 0.6)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o700)
    monkeypatch.setattr(renewal.sys, "executable", str(python))
    with pytest.raises(NotRenewedError, match="renewed: ModuleNotFoundError: No module named 'cryptography'"):
        renew(run)


def test_the_program_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], 0.0) == 2
    run = RunDir(tmp_path)
    files = put(run)
    files.server_key.write_text("nonsense")
    assert main([str(run.path)], time.time()) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_job_that_waited_for_long_is_resolved_with_new_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = RunDir(tmp_path / "tiny-20260101-000000-abcd")
    files = put(run, LIFE_S * 3)
    resolve(run, os.environ)
    assert validity(files.server)[1] > time.time()
    put(run, LIFE_S * 3).authority_key.unlink()
    with pytest.raises(TrtdistError, match="could not be renewed"):
        resolve(run, os.environ)
    put(run, LIFE_S * 0.6).authority_key.unlink()
    resolve(run, os.environ)


def test_a_client_shows_the_newest_certificate_whenever_it_connects(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    files = put(run, LIFE_S * 0.6)
    context = client_context(run)
    shown = [shown_by(context, files)]
    assert shown == [files.client.read_bytes()]
    renew(run)
    shown.append(shown_by(context, files))
    assert shown[1] == files.client.read_bytes() != shown[0]
    files.client.unlink()
    assert shown_by(context, files) == shown[1]


def shown_by(client: ssl.SSLContext, files: Certificates) -> bytes:
    """The certificate that a client shows, as PEM, without a network."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.server, files.server_key)
    server.load_verify_locations(files.authority)
    server.verify_mode = ssl.CERT_REQUIRED
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(here, there), server.wrap_bio(there, here, server_side=True)]
    for side in sides * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    shown = sides[1].getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown).encode()


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = Services(RunDir(tmp_path / "tiny-20260101-000000-abcd"))
    try:
        yield found
    finally:
        found.end()


@contextlib.asynccontextmanager
async def connected(
    run: RunDir, name: str, config: RunConfig | None = None
) -> AsyncIterator[tuple[DirectClient, EtcdClient]]:
    """To both services of a run; that the connection breaks is a failure."""
    config = RunConfig.load(run.path) if config is None else config
    said: list[str] = []
    login = config.nats_user, config.nats_password
    nats = connection(config.nats_url, *login, name, said.append, tls=config.nats_tls)
    async with EtcdClient(config.etcd_endpoints, config.etcd_tls) as etcd, nats as client:
        yield client, etcd
        assert said == []


async def use(nats: DirectClient, etcd: EtcdClient, word: str) -> None:
    heard = await nats.subscribe(word)
    await nats.publish(word, word.encode())
    assert (await heard.next_msg(30)).data == word.encode()
    await heard.unsubscribe()
    await etcd.put(word, word.encode())
    found = await etcd.get(word)
    assert found is not None and found.value == word.encode()


async def renewed(services: Services, nats: subprocess.Popen[bytes], times: int) -> None:
    """Wait until it has been due so often, as the supervisor does."""
    while times:
        found = await asyncio.to_thread(renew, services.run)
        assert found is not None
        if found.done:
            await tell(services, nats)
            times -= 1
        await asyncio.sleep(min(found.again_in, 0.2))


async def tell(services: Services, nats: subprocess.Popen[bytes]) -> None:
    """Return once NATS has read its certificates again."""
    before = reloads(services)
    nats.send_signal(signal.SIGHUP)
    await until(lambda: reloads(services) > before, 60)


def reloads(services: Services) -> int:
    return services.log("nats").count("Reloaded server configuration")


@pytest.mark.long
def test_servers_and_clients_go_on_through_renewals(services: Services) -> None:
    files = put(services.run, life=30)
    nats, etcd = services.up("nats"), services.up("etcd")
    first_end = max(validity(path)[1] for path in (files.server, files.client))

    async def through() -> None:
        config = RunConfig.load(services.run.path)
        async with connected(services.run, "first") as first:
            await use(*first, "at-first")
            await renewed(services, nats, 3)
            assert time.time() > first_end
            await use(*first, "still-there")
            # One that has read its files before they were renewed, and one that reads them now.
            async with connected(services.run, "old", config) as old:
                await use(*old, "read-before")
            async with connected(services.run, "new") as new:
                await use(*new, "read-now")
                await renewed(services, nats, 1)
                await use(*new, "renewed-again")
            await use(*first, "to-the-last")

    asyncio.run(through())
    assert all(services.health(service).healthy for service in ("nats", "etcd"))
    for server in (nats, etcd):
        server.kill()
        server.wait()
    for service in ("nats", "etcd"):
        services.up(service)

    async def again() -> None:
        async with connected(services.run, "after") as after:
            await use(*after, "started-again")

    asyncio.run(again())


@pytest.mark.long
def test_who_is_connected_stays_so_when_nothing_is_renewed(services: Services) -> None:
    ends = validity(put(services.run, life=15).client)[1]
    services.up("nats")
    config = RunConfig.load(services.run.path)
    login = config.nats_user, config.nats_password

    async def stay() -> None:
        async with connection(config.nats_url, *login, "test", tls=config.nats_tls) as client:
            heard = await client.subscribe("x")
            await asyncio.sleep(ends + 2 - time.time())
            await client.publish("x", b"y")
            assert (await heard.next_msg(30)).data == b"y"
            with pytest.raises(NatsError, match=r"expired|bad certificate|did not answer"):
                await connect(config.nats_url, *login, "late", lambda said: None, seconds=5.0, tls=config.nats_tls)

    asyncio.run(stay())
    with pytest.raises(TrtdistError, match="were valid until"):
        RunConfig.load(services.run.path)
    health = services.health("nats")
    assert not health.healthy and "valid until" in health.detail
