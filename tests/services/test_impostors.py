"""Somebody else has the port of a service of the run, while that is down: he learns nothing and stops nobody."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from tests.services.running import Services
from tests.serving.servers import free_ports
from trtdist.services.health import probe
from trtdist.serving.etcd import EtcdClient, EtcdError
from trtdist.serving.nats_connection import NatsError, connect
from trtdist.serving.run_config import RunConfig

GREETING = b'INFO {"server_id":"x","server_name":"%s","version":"2.10.0","max_payload":8388608,%s}\r\n'
GREETINGS = {
    "no TLS": b'"auth_required":true',
    "TLS refused": b'"auth_required":true,"tls_required":false',
    "TLS not of this run": b'"auth_required":true,"tls_required":true',
    "another server": b'"auth_required":true,"connect_urls":["127.0.0.1:1"]',
    "odd addresses": b'"auth_required":true,"connect_urls":[7,"[::"]',
    "depth": b'"tls_required":true,"x":' + b"[" * 8000,
}
ODD = {
    "list": b"INFO [1]\r\n",
    "number": b"INFO 1\r\n",
    "silence": b"",
    "length": b"INFO " + b"x" * (1 << 20),
    "noise": bytes(range(256)) * 64,
}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def _listen(port: int) -> socket.socket:
    """What had the port may take a moment to leave it."""
    end = time.monotonic() + 60
    while True:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < end, f"port {port} does not become free"
            time.sleep(0.05)


class Impostor:
    """Has a port while in `with`, greets each visitor (a byte at a time with a `pause`), and keeps what he says."""

    def __init__(self, port: int, greeting: bytes, pause: float = 0.0) -> None:
        self.visits = 0
        self.heard: list[bytes] = []
        self._greeting = greeting
        self._pause = pause
        self._closing = threading.Event()
        self._listener = _listen(port)
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Impostor:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def learned(self) -> list[bytes]:
        """What is more than the greeting of TLS, which anybody may hear."""
        return [data for data in self.heard if not data.startswith(b"\x16\x03")]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                visitor, _ = self._listener.accept()
                visitor.settimeout(0.1)
                self.visits += 1
                self._threads.append(threading.Thread(target=self._meet, args=(visitor,)))
                self._threads[-1].start()

    def _meet(self, visitor: socket.socket) -> None:
        with visitor, contextlib.suppress(ConnectionError):
            self._greet(visitor)
            while not self._closing.is_set():
                with contextlib.suppress(socket.timeout):
                    data = visitor.recv(1 << 16)
                    if not data:
                        return
                    self.heard.append(data)

    def _greet(self, visitor: socket.socket) -> None:
        size = 1 if self._pause else len(self._greeting) or 1
        for at in range(0, len(self._greeting), size):
            with contextlib.suppress(socket.timeout):
                visitor.sendall(self._greeting[at : at + size])
            if self._closing.wait(self._pause):
                return


def greeting_of(kind: str, services: Services) -> bytes:
    return ODD[kind] if kind in ODD else GREETING % (services.run.run_id.encode(), GREETINGS[kind])


def test_a_foreign_nats_learns_nothing(services: Services) -> None:
    config = RunConfig.load(services.run.path)
    login = config.nats_user, config.nats_password

    async def meet(kind: str, port: int) -> None:
        env = {**services.env, "TRTDIST_NATS_PORT": str(port), "NATS_SERVER": f"tls://127.0.0.1:{port}"}
        with Impostor(port, greeting_of(kind, services)) as found:
            with pytest.raises(NatsError, match=r"cannot be reached|did not answer"):
                await connect(env["NATS_SERVER"], *login, "x", lambda said: None, seconds=0.5, tls=config.nats_tls)
            health = await probe("nats", env)
            assert not health.healthy and health.detail, kind
            assert found.learned() == [], kind

    async def all_at_once() -> None:
        kinds = [*GREETINGS, *ODD]
        await asyncio.gather(*map(meet, kinds, free_ports(len(kinds))))

    asyncio.run(all_at_once())


def test_the_connection_is_taken_up_with_the_right_server_alone(services: Services) -> None:
    """And it logs in anew, with password and certificate."""
    services.up("nats")
    config = RunConfig.load(services.run.path)
    login = config.nats_user, config.nats_password

    async def use() -> None:
        loop = asyncio.get_running_loop()
        met: list[str] = []
        client = await connect(config.nats_url, *login, "x", met.append, tls=config.nats_tls)
        heard = await client.subscribe("x")
        services.end()
        kinds = ("no TLS", "TLS not of this run", "depth", "list")
        for kind in kinds:
            with Impostor(int(services.env["TRTDIST_NATS_PORT"]), greeting_of(kind, services)) as found:
                await client.publish("x", kind.encode())
                end = loop.time() + 60
                while not found.visits and loop.time() < end:
                    await asyncio.sleep(0.01)
            assert found.visits and found.learned() == [], kind
        services.start("nats")
        # The first was written to a connection that had just broken.
        assert (await heard.next_msg(60)).data.decode() in kinds
        await client.close()

    asyncio.run(use())


def test_a_slow_one_holds_nobody_up(services: Services) -> None:
    """A byte now and then is no answer, and leaves no thread behind that the end of the program would wait for."""

    async def meet() -> None:
        with Impostor(int(services.env["TRTDIST_NATS_PORT"]), b"INFO {" + b" " * 10_000, pause=0.2):
            assert (await probe("nats", services.env)).detail == "gives no answer within a second"

    began = time.monotonic()
    asyncio.run(meet())
    assert time.monotonic() - began < 60


def test_a_foreign_etcd_learns_nothing(services: Services) -> None:
    config = RunConfig.load(services.run.path)

    async def meet() -> None:
        with Impostor(int(services.env["TRTDIST_ETCD_PORT"]), OK) as found:
            async with EtcdClient(config.etcd_endpoints, config.etcd_tls, seconds=0.5) as client:
                with pytest.raises(EtcdError):
                    await client.put("key", b"secret")
            assert not (await probe("etcd", services.env)).healthy
            assert found.heard and found.learned() == []

    asyncio.run(meet())
