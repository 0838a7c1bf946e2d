"""One nats-server and one etcd for each test process; tests keep apart by namespaces of their own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest

from tests.serving.asked import Play, Scene, played
from tests.serving.servers import EtcdServer, NatsServer


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A shared server: not to be stopped by a test; one that must die is made with `NatsServer(tmp_path)`."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    with server:
        yield server


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """A shared server: not to be stopped by a test; one that must die is made with `EtcdServer(tmp_path)`."""
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    with server:
        yield server


@pytest.fixture
def namespace() -> str:
    """A run id that no other test uses."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
def play(nats_server: NatsServer, etcd_server: EtcdServer, namespace: str) -> Play:
    """Runs a scene on a stage of its own."""

    def run(scene: Scene) -> None:
        asyncio.run(played(scene, nats_server, etcd_server, namespace))

    return run
