"""Messages that are taken where they are received: over TLS as in a run, with each event loop, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from tests.listening import listening
from tests.serving.scripted import until
from tests.serving.servers import NatsServer
from trtdist.rundir import RunDir
from trtdist.services.authority import make_certificates
from trtdist.services.tls import Certificates, client_context
from trtdist.serving.attempt import Attempt
from trtdist.serving.direct import DirectClient, _AtOnce
from trtdist.serving.inbox import Inbox
from trtdist.serving.instance import Instance
from trtdist.serving.nats_connection import connect, connection, disconnect
from trtdist.serving.protocol import Chunk
from trtdist.serving.slug import MONOLITHIC

Loop = Callable[[Coroutine[Any, Any, None]], None]
APPLICATION_DATA = 23


@dataclass(frozen=True)
class Secure:
    """A NATS server that asks for certificates as that of a run does, and the contexts of both sides."""

    nats: NatsServer
    server: ssl.SSLContext
    client: ssl.SSLContext

    def connection(self, port: int = 0) -> contextlib.AbstractAsyncContextManager[DirectClient]:
        """A client of the server, or of what has another port."""
        url = f"tls://127.0.0.1:{port or self.nats.port}"
        return connection(url, self.nats.user, self.nats.password, "a test", tls=self.client)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    run = RunDir(tmp_path_factory.mktemp("secure") / "run")
    run.secrets.mkdir(parents=True)
    for name, text in make_certificates(time.time()).items():
        (run.secrets / name).write_text(text)
    files = Certificates.of(run)
    shown = f'cert_file: "{files.server}", key_file: "{files.server_key}"'
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.server, files.server_key)
    with NatsServer(run.path, f'tls {{ {shown}, ca_file: "{files.authority}", verify: true }}\n') as nats:
        yield Secure(nats, server, client_context(run))


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Loop:
    """Runs a coroutine in each of the event loops that a front end may have."""
    found: Loop = {"asyncio": asyncio.run, "uvloop": uvloop.run}[request.param]
    return found


def test_messages_of_all_sizes_come_whole_over_tls(secure: Secure, run: Loop) -> None:
    """A record of TLS has at most 16 KiB, so that large messages, and small ones together, are cut by their records."""
    sizes = [0, 1, 16_383, 16_384, 16_385, 100_000, 3_000_000, *[997] * 200, 8 * 1024 * 1024, 2]
    sent = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    got: list[tuple[bytes, object]] = []

    async def main() -> None:
        async with secure.connection() as client:
            await client.subscribe_directly(
                "direct", lambda subject, data, status: got.append((data, _task())), lambda: None
            )
            for data in sent:
                await client.publish("direct", data)
            await until(lambda: len(got) == len(sent), 60)

    run(main())
    assert [data for data, _ in got] == sent
    assert {task for _, task in got} == {None}


def test_what_is_published_in_one_turn_is_one_record_after_the_first_message(secure: Secure, run: Loop) -> None:
    records: list[int] = []
    got: list[bytes] = []

    async def main() -> None:
        async with _counting(secure.nats.port, records) as port, secure.connection(port) as client:
            await client.subscribe_directly("direct", lambda subject, data, status: got.append(data), lambda: None)
            await client.flush()
            records.clear()
            for number in range(50):
                await client.publish("direct", b"%d" % number)
            await until(lambda: len(got) == 50, 60)
            assert records.count(APPLICATION_DATA) == len(records) == 2

    run(main())
    assert got == [b"%d" % number for number in range(50)]


async def _secured(
    writer: asyncio.StreamWriter, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The server's end of a connection that goes on with TLS."""
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport = await loop.start_tls(writer.transport, protocol, context, server_side=True)
    assert transport is not None
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


@contextlib.asynccontextmanager
async def _counting(port: int, records: list[int]) -> AsyncIterator[int]:
    """A port that leads to another, and takes down the types of the records that clients send."""

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to = await asyncio.open_connection("127.0.0.1", port)
        back = asyncio.ensure_future(_copy(there, writer))
        unread = b""
        try:
            while data := await reader.read(1 << 16):
                to.write(data)
                unread += data
                # What comes before the handshake is no record: nothing, as the server greets first.
                while len(unread) >= 5 + int.from_bytes(unread[3:5], "big"):
                    records.append(unread[0])
                    unread = unread[5 + int.from_bytes(unread[3:5], "big") :]
        finally:
            to.close()
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    async with listening(visit) as own:
        yield own


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)


def test_messages_that_records_cut_at_any_byte_come_whole(
    secure: Secure, run: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a ping among them, which is nats-py's to answer."""
    read: list[int] = []
    got: list[bytes] = []
    received = _AtOnce.data_received

    def data_received(self: _AtOnce, data: bytes) -> None:
        read.append(len(data))
        received(self, data)

    monkeypatch.setattr(_AtOnce, "data_received", data_received)
    whole = b"MSG direct 1 5\r\nfirst\r\nPING\r\nMSG direct 1 0\r\n\r\nMSG direct 1 a.reply 6\r\nsecond\r\n"

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id": "x", "version": "2.10.0", "max_payload": 1000, "tls_required": true}\r\n')
        reader, writer = await _secured(writer, secure.server)
        try:
            await say(reader, writer)
        finally:
            writer.close()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        await until(lambda: read == [6], 60)
        for pieces in [[whole[:cut], whole[cut:]] for cut in range(1, len(whole))] + [[bytes([one]) for one in whole]]:
            for piece in pieces:
                read.clear()
                writer.write(piece)
                while sum(read) < len(piece):
                    await asyncio.sleep(0)
            await reader.readuntil(b"PONG\r\n")
        await reader.read()

    async def main() -> None:
        async with listening(visit) as port:
            client = await connect(f"tls://127.0.0.1:{port}", "", "", "a test", tls=secure.client)
            await client.subscribe_directly("direct", lambda subject, data, status: got.append(data), lambda: None)
            await client.flush()
            await until(lambda: len(got) == 3 * len(whole), 60)
            await client.close()

    run(main())
    assert got == [b"first", b"", b"second"] * len(whole)


@pytest.mark.parametrize("reply", ["", "a.reply"], ids=["where it is received", "in nats-py's task"])
def test_a_taker_that_raises_costs_the_rest_of_the_read_and_a_reconnection(
    secure: Secure, run: Loop, reply: str, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[bytes] = []
    read: list[int] = []
    said: list[str] = []

    def take(subject: str, data: bytes, status: str) -> None:
        if data == b"bad":
            raise ValueError("the taker fails")
        got.append(data)

    async def main() -> None:
        nats = secure.nats
        client = await connect(nats.url, nats.user, nats.password, "a test", said.append, tls=secure.client)
        await client.subscribe_directly("direct", take, lambda: read.append(len(got)))
        await client.flush()
        for data, to in ((b"good", ""), (b"bad", reply), (b"lost", "")):
            await client.publish("direct", data, to)
        await until(lambda: "NATS: connected again" in said, 60)
        await client.publish("direct", b"again")
        await until(lambda: b"again" in got, 60)
        await disconnect(client)

    with caplog.at_level(logging.ERROR):
        run(main())
    assert got == [b"good", b"again"] and read[0] == 1
    assert "ValueError: the taker fails" in caplog.text


def test_a_stream_that_cannot_be_taken_at_once_costs_the_others_nothing() -> None:
    taken: list[str] = []

    def fail(chunks: object) -> bool:
        raise ValueError("it fails")

    def take(chunks: object) -> bool:
        taken.append("taken")
        return True

    async def main() -> None:
        inbox = Inbox(DirectClient())
        bad, good, other = (Attempt("r", 0, at_once=each) for each in (fail, take, take))
        with inbox.receiving(bad) as first, inbox.receiving(good) as second, inbox.receiving(other) as third:
            for attempt, subject in ((bad, first), (good, second), (other, third)):
                attempt.call(None, Instance.of("ns", MONOLITHIC, "generate", 1, "srv.0"))
                inbox._arrived(subject, Chunk(0, 0, (1,), "x").encode(), "")
            with pytest.raises(ValueError, match="it fails"):
                inbox._read()
            await asyncio.sleep(0)
            assert taken == ["taken", "taken"]
            # Whoever reads the stream gets what could not be taken, and meets the error where it belongs.
            assert [chunk.text for chunk in await bad.take()] == ["x"]

    asyncio.run(main())


def test_nothing_is_flushed_into_a_connection_that_ends(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        client = await connect(nats_server.url, nats_server.user, nats_server.password, "a test")
        assert client._transport is not None
        socket = client._transport._io_writer.transport
        with monkeypatch.context() as patch:
            # Of nats-py's own flusher, which sends nothing here.
            patch.setattr(client, "_flush_queue", None)
            patch.setattr(DirectClient.__base__, "flush", _nothing)
            patch.setattr(socket, "write", lambda data: pytest.fail(f"{data!r} is lost"))
            socket.abort()
            await client._send_command(b"PUB kept  0\r\n\r\n")
            await client.flush()
            assert client._pending == [b"PUB kept  0\r\n\r\n"]
        with contextlib.suppress(ConnectionError):
            await client.close()

    asyncio.run(main())


async def _nothing(*arguments: object) -> None:
    """Sends nothing."""


def _task() -> object:
    return asyncio.current_task()
