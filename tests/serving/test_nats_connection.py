"""Connections to a real NATS server: wrong credentials, no server, a server that dies, comes back, or is frozen."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats import errors
from nats.aio.transport import TcpTransport
from nats.protocol.parser import Parser

from tests.serving.servers import NatsServer, free_ports
from trtdist.serving import nats_connection
from trtdist.serving.direct import DirectClient, _AtOnce
from trtdist.serving.nats_connection import NatsError, confirm, connect, connection, disconnect
from trtdist.serving.waiting import within


def test_messages_cross_and_the_end_is_quiet(nats_server: NatsServer, capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with connection(nats_server.url, nats_server.user, nats_server.password, "a test") as client:
            assert client.max_payload == 8 * 1024 * 1024
            got: list[bytes] = []

            async def take(message: object) -> None:
                got.append(message.data)  # type: ignore[attr-defined]

            await client.subscribe("test.drain", cb=take)
            for number in range(100):
                await client.publish("test.drain", str(number).encode())
        assert len(got) == 100 and client.is_closed
        await disconnect(client)

    asyncio.run(main())
    assert capfd.readouterr() == ("", "")


def test_what_is_pending_goes_out_before_the_question_whether_it_came(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        sent = b""

        def write(data: bytes) -> None:
            nonlocal sent
            sent += data
            socket_write(data)

        async with connection(nats_server.url, nats_server.user, nats_server.password, "a test") as client:
            socket = client._transport._io_writer.transport
            socket_write = socket.write
            monkeypatch.setattr(socket, "write", write)
            monkeypatch.setattr(client._transport, "writelines", lambda lines: write(b"".join(lines)))
            await client.subscribe("test.flushed")
            await client.flush()
            assert sent.startswith(b"SUB test.flushed") and sent.endswith(b"PING\r\n")

    asyncio.run(main())


@pytest.mark.parametrize("short", [True, False])
def test_a_direct_subscription_gets_all_in_order_also_without_the_short_way(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    if not short:
        # As with a version of nats-py that does not use what DirectClient puts in place of its own.
        monkeypatch.delattr(DirectClient, "_process_msg")
        monkeypatch.setattr("trtdist.serving.direct._Parser", Parser)
    unread: list[bytes] = []
    got: list[tuple[str, bytes, str]] = []

    async def main() -> None:
        whole = asyncio.Event()

        def take(subject: str, data: bytes, status: str) -> None:
            got.append((subject, data, status))
            unread.append(data)
            if status:
                whole.set()

        async with connection(nats_server.url, nats_server.user, nats_server.password, "a test") as client:
            await client.subscribe_directly("direct.*", take, unread.clear)
            for number in range(200):
                await client.publish(f"direct.{number % 2}", b"%d" % number)
            await client.flush()
            # Nobody listens there, which NATS says in a message with headers.
            await client.publish("nobody.there", b"", "direct.answer")
            await asyncio.wait_for(whole.wait(), 60)

    asyncio.run(main())
    assert got == [(f"direct.{n % 2}", b"%d" % n, "") for n in range(200)] + [("direct.answer", b"", "503")]
    assert not unread


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12), st.data())
def test_a_direct_subscription_gets_all_however_the_bytes_come(payloads: list[bytes], data: st.DataObject) -> None:
    """Other messages and pings among them are nats-py's to read, as before."""
    got: list[bytes] = []

    async def main() -> None:
        client = DirectClient()
        # Nobody is connected: only the bytes that a server would send are read.
        _take_directly(client, got)
        whole = b""
        for payload in payloads:
            other = data.draw(st.sampled_from([b"", b"PONG\r\n", b"MSG other 8 3\r\nabc\r\n", b"+OK\r\n"]))
            reply = data.draw(st.sampled_from([b"", b"its.reply "]))
            whole += other + b"MSG direct.1 7 %b%d\r\n%b\r\n" % (reply, len(payload), payload)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
        for begin, end in zip([0, *cuts], [*cuts, len(whole)]):
            await client._ps.parse(whole[begin:end])

    asyncio.run(main())
    assert got == payloads


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12), st.data())
def test_what_is_taken_where_it_is_received_keeps_its_order(payloads: list[bytes], data: st.DataObject) -> None:
    """Whatever nats-py's task is doing when bytes come, which wakes up for those that are its own to read."""
    got: list[bytes] = []

    async def main() -> None:
        client = DirectClient()
        client._status = DirectClient.CONNECTED
        _take_directly(client, got)
        reader = asyncio.StreamReader()
        received = _AtOnce(client, reader, asyncio.StreamReaderProtocol(reader))

        # Not in the task: hypothesis ends an example by raising where it draws.
        most = data.draw(st.integers(1, 200))

        async def read() -> None:
            while some := await reader.read(most):
                await client._ps.parse(some)

        task = asyncio.ensure_future(read())
        whole = b""
        for payload in payloads:
            other = data.draw(st.sampled_from([b"", b"PONG\r\n", b"MSG other 8 3\r\nabc\r\n"]))
            if other.startswith(b"PONG"):
                client._pongs.append(asyncio.get_running_loop().create_future())
            whole += other + b"MSG direct.1 7 %d\r\n%b\r\n" % (len(payload), payload)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
        for begin, end in zip([0, *cuts], [*cuts, len(whole)]):
            received.data_received(whole[begin:end])
            for _ in range(data.draw(st.integers(0, 4))):
                await asyncio.sleep(0)
        reader.feed_eof()
        await task
        assert not client._pongs

    asyncio.run(main())
    assert got == payloads


def _take_directly(client: DirectClient, got: list[bytes]) -> None:
    client._takers[7] = lambda subject, taken, status: got.append(taken)
    client._after_read[7] = lambda: None


def test_a_part_of_a_message_waits_without_a_copy_and_without_a_call() -> None:
    class Kept(bytearray):
        def __bytes__(self) -> bytes:
            copies.append(len(self))
            return bytes(memoryview(self))

    copies: list[int] = []
    got: list[bytes] = []
    calls: list[int] = []
    client = DirectClient()
    _take_directly(client, got)
    client._after_read[7] = lambda: calls.append(len(got))
    client._ps.buf = Kept()
    whole = b"MSG direct.1 7 100\r\n%b\r\n" % (b"x" * 100)
    for at in range(len(whole)):
        # What is no whole line yet is nats-py's to keep.
        client._ps.buf.extend(client._ps.take(whole[at : at + 1]))
    assert got == [b"x" * 100] and calls == [1]
    assert sum(size > 30 for size in copies) == 1


def test_a_number_that_is_too_long_is_an_error_of_nats_pys_own() -> None:
    client = DirectClient()
    _take_directly(client, [])
    with pytest.raises(errors.ProtocolError):
        asyncio.run(client._ps.parse(b"MSG direct.1 7 " + b"9" * 5000 + b"\r\n"))


def test_a_fault_of_our_own_is_not_told_as_one_of_the_server(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(client: DirectClient) -> None:
        raise AttributeError("ours")

    monkeypatch.setattr(DirectClient, "_read_at_once", fail)
    with pytest.raises(AttributeError, match="ours"):
        asyncio.run(connect(nats_server.url, nats_server.user, nats_server.password, "a test"))


def test_two_direct_subscriptions_end_by_themselves(nats_server: NatsServer) -> None:
    read: list[str] = []

    async def main() -> None:
        async with connection(nats_server.url, nats_server.user, nats_server.password, "a test") as client:
            for name in ("one", "two"):
                await client.subscribe_directly(name, lambda *message: None, lambda name=name: read.append(name))  # type: ignore[misc]
            await client.publish("one", b"")
            await client.flush()
            assert "one" in read
            for subscription in list(client._subs.values()):
                await subscription.unsubscribe()
            assert not client._takers and not client._after_read

    asyncio.run(main())


def test_messages_are_taken_where_they_are_received_also_after_a_reconnect(tmp_path: Path) -> None:
    said: list[str] = []

    async def main() -> None:
        tasks: list[object] = []
        client = await connect(server.url, server.user, server.password, "a test", said.append)
        await client.subscribe_directly("direct", lambda *message: tasks.append(_task()), lambda: None)
        await client.flush()
        await client.publish("direct", b"")
        await within(30, _until(lambda: len(tasks) == 1))
        server.kill()
        await asyncio.get_running_loop().run_in_executor(None, server.start)
        await within(30, _until(lambda: "NATS: connected again" in said))
        await client.flush()
        await client.publish("direct", b"")
        await within(30, _until(lambda: len(tasks) == 2))
        assert tasks == [None, None]
        await disconnect(client)

    with NatsServer(tmp_path) as server:
        asyncio.run(main())


def _task() -> object:
    return asyncio.current_task()


def test_wrong_password_is_told_at_once(nats_server: NatsServer, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NatsError, match="credentials"):
        asyncio.run(connect(nats_server.url, nats_server.user, "wrong", "a test", seconds=600.0))
    assert capfd.readouterr() == ("", "")


def test_no_server_is_told_in_time() -> None:
    with pytest.raises(NatsError, match="is it running"):
        asyncio.run(connect(f"nats://127.0.0.1:{free_ports(1)[0]}", "u", "p", "a test", seconds=0.4))


def test_connects_to_a_server_that_comes_late_and_comes_back(tmp_path: Path) -> None:
    said: list[str] = []

    async def main() -> None:
        pool = asyncio.get_running_loop()
        waiting = asyncio.ensure_future(connect(server.url, server.user, server.password, "a test", said.append))
        await pool.run_in_executor(None, server.start)
        client = await waiting
        back = await client.subscribe("test.back")
        server.kill()
        await pool.run_in_executor(None, server.start)
        await within(60, _until(lambda: "NATS: connected again" in said))
        await client.publish("test.back", b"x")
        assert (await back.next_msg(60)).data == b"x"
        await disconnect(client)

    server = NatsServer(tmp_path)
    try:
        asyncio.run(main())
    finally:
        server.stop()
    assert said[0].startswith("NATS: ") and said[-1] == "NATS: connected again"
    assert len(said) <= 5 and not any("Traceback" in line for line in said)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


def test_loss_is_told_when_the_server_stays_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_connection, "RECONNECT_ATTEMPTS", 2)
    monkeypatch.setattr(nats_connection, "RECONNECT_PAUSE_S", 0.05)
    said: list[str] = []

    async def main() -> None:
        lost = asyncio.Event()
        client = await connect(server.url, server.user, server.password, "a test", said.append, lost.set)
        server.kill()
        await within(60, lost.wait())
        await disconnect(client)

    with NatsServer(tmp_path) as server:
        asyncio.run(main())
    assert said


def test_frozen_server_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_connection, "FLUSH_S", 0.3)

    async def main() -> None:
        client = await connect(server.url, server.user, server.password, "a test", lambda said: None)
        await client.subscribe("test.frozen")
        server.send(signal.SIGSTOP)
        await within(60, disconnect(client))
        assert client.is_closed

    with NatsServer(tmp_path) as server:
        asyncio.run(main())


def test_a_connection_that_breaks_while_it_is_drained_is_no_error(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio cancels whoever waits for the end of it, once in many times: here, always."""

    async def broken(self: TcpTransport) -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        client = await connect(nats_server.url, nats_server.user, nats_server.password, "a test")
        await client.subscribe("test.broken")
        monkeypatch.setattr(TcpTransport, "wait_closed", broken)
        await disconnect(client)
        assert client.is_closed

    asyncio.run(main())


def test_a_server_that_dies_while_a_connection_is_drained_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_connection, "DRAIN_S", 3600)
    monkeypatch.setattr(DirectClient.flush, "__defaults__", (3600,))
    drain = DirectClient.drain

    async def interrupted(client: DirectClient) -> None:
        server.send(signal.SIGSTOP)
        draining = asyncio.ensure_future(drain(client))
        await _until(lambda: bool(client._pongs))
        server.kill()
        await draining

    async def main() -> None:
        client = await connect(server.url, server.user, server.password, "a test", lambda said: None)
        await client.subscribe("test.dies")
        await within(60, disconnect(client))
        assert client.is_closed

    monkeypatch.setattr(DirectClient, "drain", interrupted)
    with NatsServer(tmp_path) as server:
        asyncio.run(main())


def test_what_was_sent_is_confirmed_by_a_server_that_dies_meanwhile_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = DirectClient.flush
    asked: list[object] = []

    async def interrupted(client: DirectClient, timeout: int) -> None:
        asked.append(client)
        if len(asked) == 1:
            server.send(signal.SIGSTOP)
            flushing = asyncio.ensure_future(flush(client, timeout))
            await _until(lambda: bool(client._pongs))
            server.kill()
            await asyncio.get_running_loop().run_in_executor(None, server.start)
            await flushing
        await flush(client, timeout)

    async def main() -> None:
        client = await connect(server.url, server.user, server.password, "a test", lambda said: None)
        back = await client.subscribe("test.confirmed")
        monkeypatch.setattr(DirectClient, "flush", interrupted)
        await confirm(client, 60)
        monkeypatch.setattr(DirectClient, "flush", flush)
        assert len(asked) == 2
        await client.publish("test.confirmed", b"x")
        assert (await back.next_msg(60)).data == b"x"
        await disconnect(client)

    with NatsServer(tmp_path) as server:
        asyncio.run(main())


def test_a_server_that_confirms_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_connection, "FLUSH_S", 0.2)

    async def main() -> None:
        client = await connect(server.url, server.user, server.password, "a test", lambda said: None)
        server.send(signal.SIGSTOP)
        with pytest.raises(NatsError, match="it was silent"):
            await confirm(client, 0.3)
        await disconnect(client)

    with NatsServer(tmp_path) as server:
        asyncio.run(main())
