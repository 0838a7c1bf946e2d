"""Health is told by the right server alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.listening import listening
from tests.services.running import Services
from tests.serving.servers import EtcdServer
from trtdist.services.health import Health, probe

OTHER = {"TRTDIST_RUN_ID": "other-20260101-000000-abcd"}


@pytest.mark.parametrize("service", ["nats", "etcd"])
def test_our_own_is_known_by_its_name(shared: Services, service: str) -> None:
    found = shared.health(service)
    assert found == Health(True, shared.env["NATS_SERVER" if service == "nats" else "ETCD_ENDPOINTS"])
    stranger = shared.health(service, **OTHER)
    assert not stranger.healthy
    assert shared.run.run_id in stranger.detail


def test_an_external_one_need_not_be_ours(shared: Services) -> None:
    nats = {"NATS_SERVER": shared.env["NATS_SERVER"], **OTHER}
    assert asyncio.run(probe("nats", nats)).healthy


def test_one_healthy_server_of_an_external_etcd_is_enough(tmp_path: Path) -> None:
    with EtcdServer(tmp_path) as server:
        assert asyncio.run(probe("etcd", {"ETCD_ENDPOINTS": f"http://127.0.0.1:1,{server.endpoint}"})).healthy


def answer(reply: bytes, service: str = "etcd", delay: float = 0.0) -> Health:
    """What is said of an external server that answers like this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if service == "etcd":
            await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(delay)
        writer.write(reply)
        await writer.drain()

    return asyncio.run(_with_server(serve, service))


async def _with_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], service: str
) -> Health:
    async with listening(serve) as port:
        env = {"NATS_SERVER": f"nats://127.0.0.1:{port}", "ETCD_ENDPOINTS": f"http://127.0.0.1:{port}"}
        return await probe(service, env)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


@pytest.mark.parametrize("body", [b'{"health":"true"}', b'{"health": true, "reason": ""}'])
def test_a_healthy_etcd(body: bytes) -> None:
    assert answer(OK + body).healthy


@pytest.mark.parametrize(
    "reply",
    [
        OK + b'{"health":"false"}',
        OK + b"{}",
        OK + b"[]",
        OK + b"nonsense",
        OK + b"\xff\xfe",
        OK + b"[" * 100_000,
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n" + b'{"health":"true"}',
        b"INFO {}\r\n",
        b"",
        b"\0" * (1 << 21),
    ],
)
def test_what_is_no_healthy_etcd(reply: bytes) -> None:
    found = answer(reply)
    assert not found.healthy
    assert found.detail


@pytest.mark.parametrize(
    ("reply", "healthy"),
    [(b'INFO {"server_name":"x"}\r\n', True), (OK, False), (b"", False), (b"x" * (1 << 21), False)],
)
def test_a_nats_server_greets(reply: bytes, healthy: bool) -> None:
    found = answer(reply, "nats")
    assert found.healthy is healthy
    assert bool(found.detail) is not healthy


@pytest.mark.parametrize("service", ["nats", "etcd"])
def test_silence_is_not_waited_out(service: str) -> None:
    began = time.monotonic()
    found = answer(OK, service, delay=30)
    assert not found.healthy
    assert "within a second" in found.detail
    assert time.monotonic() - began < 25


def test_tls_where_there_is_none_is_said() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no TLS here\r\n")

    async def ask() -> Health:
        async with listening(serve) as port:
            return await probe("etcd", {"ETCD_ENDPOINTS": f"https://127.0.0.1:{port}"})

    found = asyncio.run(ask())
    assert not found.healthy
    assert found.detail


def test_names_that_lead_nowhere() -> None:
    found = asyncio.run(probe("nats", {"NATS_SERVER": "nats://no-such-host.invalid:4222"}))
    assert not found.healthy
    assert "cannot be reached" in found.detail or "within a second" in found.detail
