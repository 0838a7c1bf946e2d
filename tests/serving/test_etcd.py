"""The etcd client against a real server, held against etcdctl and etcd3gw, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

import etcd3gw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.listening import listening
from tests.serving.servers import EtcdServer, free_ports
from trtdist.errors import InputError
from trtdist.serving import etcd_wire, http1
from trtdist.serving.etcd import (
    CompactedError,
    EtcdClient,
    EtcdError,
    EtcdProtocolError,
    EtcdRefusedError,
    EtcdUnavailableError,
    LeaseGoneError,
)
from trtdist.serving.waiting import within


def use(server: EtcdServer, work: Callable[[EtcdClient], Coroutine[Any, Any, None]], seconds: float = 5.0) -> None:
    """Run a test with a client of a server."""

    async def main() -> None:
        async with EtcdClient([server.endpoint], seconds=seconds) as client:
            await within(60, work(client))

    asyncio.run(main())


def test_etcdctl_reads_what_we_write_and_we_read_what_it_writes(etcd_server: EtcdServer, namespace: str) -> None:
    async def work(client: EtcdClient) -> None:
        revision = await client.put(f"{namespace}/a", "ä\n\0 x".encode())
        seen = json.loads(etcd_server.etcdctl("get", f"{namespace}/a", "-w", "json"))
        ours = await client.get(f"{namespace}/a")
        assert ours is not None
        assert etcd_wire.b64(ours.value) == seen["kvs"][0]["value"]
        assert (ours.mod_revision, ours.version) == (seen["kvs"][0]["mod_revision"], 1) == (revision, 1)
        etcd_server.etcdctl("put", f"{namespace}/b", "two words")
        found = await client.range(f"{namespace}/")
        assert [item.key for item in found.items] == [f"{namespace}/a", f"{namespace}/b"]
        assert found.items[1].value == b"two words"
        assert [item.value for item in (await client.range(f"{namespace}/", keys_only=True)).items] == [b"", b""]
        assert await client.delete(f"{namespace}/a") == 1
        assert await client.delete(f"{namespace}/a") == 0
        assert await client.delete(f"{namespace}/b") == 1
        assert etcd_server.etcdctl("get", "--prefix", namespace) == ""
        assert await client.get(f"{namespace}/a") is None

    use(etcd_server, work)


def test_agrees_with_etcd3gw(etcd_server: EtcdServer, namespace: str) -> None:
    other = etcd3gw.client(host="127.0.0.1", port=etcd_server.port, api_path="/v3/")

    async def work(client: EtcdClient) -> None:
        lease = await client.grant(30)
        assert await client.create(f"{namespace}/k", b"first", lease)
        assert not other.create(f"{namespace}/k", "second")
        assert other.get(f"{namespace}/k") == [b"first"]
        theirs = other.lease(ttl=30)
        other.put(f"{namespace}/t", "x", lease=theirs)
        assert 25 <= await client.time_to_live(theirs.id) <= 30
        item = await client.get(f"{namespace}/t")
        assert item is not None and item.lease == theirs.id
        await client.revoke(theirs.id)
        assert other.get(f"{namespace}/t") == []
        await client.revoke(lease)
        assert other.get(f"{namespace}/k") == []

    try:
        use(etcd_server, work)
    finally:
        other.session.close()


def test_create_happens_once(etcd_server: EtcdServer, namespace: str) -> None:
    async def work(client: EtcdClient) -> None:
        tries = [client.create(f"{namespace}/k", str(number).encode()) for number in range(8)]
        assert sorted(await asyncio.gather(*tries)) == [False] * 7 + [True]
        assert await client.delete(f"{namespace}/k") == 1
        assert await client.create(f"{namespace}/k", b"again")

    use(etcd_server, work)


def test_leases_live_and_end(etcd_server: EtcdServer, namespace: str) -> None:
    async def work(client: EtcdClient) -> None:
        lease = await client.grant(60)
        await client.put(f"{namespace}/k", b"v", lease)
        assert f"{lease:x}" in etcd_server.etcdctl("lease", "list")
        assert await client.keep_alive(lease) == 60
        await client.revoke(lease)
        assert await client.get(f"{namespace}/k") is None
        for call in (client.keep_alive(lease), client.time_to_live(lease), client.revoke(lease)):
            with pytest.raises(LeaseGoneError):
                await call
        with pytest.raises(LeaseGoneError):
            await client.put(f"{namespace}/k", b"v", lease)
        with pytest.raises(LeaseGoneError):
            await client.create(f"{namespace}/k", b"v", lease)

    use(etcd_server, work)


def test_watch_tells_every_change_in_order(etcd_server: EtcdServer, namespace: str) -> None:
    async def work(client: EtcdClient) -> None:
        start = await client.put(f"{namespace}/a", b"0")
        await client.put(f"{namespace}other", b"not ours")
        async with client.watch(f"{namespace}/", start) as watch:
            etcd_server.etcdctl("put", f"{namespace}/a", "1")
            etcd_server.etcdctl("put", f"{namespace}/b", "2")
            etcd_server.etcdctl("del", f"{namespace}/a")
            seen: list[tuple[str, bool, bytes]] = []
            while len(seen) < 4:
                batch = await watch.__anext__()
                seen += [(event.item.key, event.deleted, event.item.value) for event in batch.events]
                assert all(event.item.mod_revision <= batch.revision for event in batch.events)
        a, b = f"{namespace}/a", f"{namespace}/b"
        assert seen == [(a, False, b"0"), (a, False, b"1"), (b, False, b"2"), (a, True, b"")]

    use(etcd_server, work)


def test_watch_from_compacted_history_says_so(tmp_path: Path) -> None:
    async def work(client: EtcdClient) -> None:
        old = await client.put("k", b"1")
        new = await client.put("k", b"2")
        server.etcdctl("compact", str(new))
        async with client.watch("k", old) as watch:
            with pytest.raises(CompactedError) as caught:
                await watch.__anext__()
        assert caught.value.revision == new

    with EtcdServer(tmp_path) as server:
        use(server, work)


def test_server_killed_while_watched_then_restarted(tmp_path: Path) -> None:
    async def work(client: EtcdClient) -> None:
        before = await client.put("k", b"1")
        async with client.watch("k", before + 1) as watch:
            server.kill()
            with pytest.raises(EtcdUnavailableError, match="watch"):
                await watch.__anext__()
        with pytest.raises(EtcdUnavailableError, match=f"127.0.0.1:{server.port}"):
            await client.range("k", seconds=0.3)
        waiting = asyncio.ensure_future(client.put("k", b"2"))
        await asyncio.get_running_loop().run_in_executor(None, server.start)
        assert await waiting > before
        async with client.watch("k", before + 1) as watch:
            batch = await watch.__anext__()
        assert batch.events[0].item.value == b"2"

    server = EtcdServer(tmp_path)
    try:
        server.start()
        use(server, work)
    finally:
        server.stop()


def test_frozen_server_is_given_up_in_time(tmp_path: Path) -> None:
    async def work(client: EtcdClient) -> None:
        server.send(signal.SIGSTOP)
        try:
            with pytest.raises(EtcdUnavailableError, match=r"within 0\.3 s"):
                await client.put("k", b"2")
            with pytest.raises(EtcdUnavailableError, match="or not"):
                await client.create("new", b"3")
            with pytest.raises(EtcdUnavailableError):
                async with client.watch("k", 1):
                    raise AssertionError("the watch must not start")
        finally:
            server.send(signal.SIGCONT)
        assert await client.range("k", seconds=60) is not None

    with EtcdServer(tmp_path) as server:
        use(server, work, seconds=0.3)


def test_another_endpoint_is_tried(etcd_server: EtcdServer, namespace: str) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"

    async def main() -> None:
        async with EtcdClient([nobody, etcd_server.endpoint]) as client:
            await client.put(f"{namespace}/k", b"v")
            assert await client.create(f"{namespace}/once", b"v")
            async with client.watch(f"{namespace}/", 1) as watch:
                assert (await watch.__anext__()).events

    asyncio.run(main())


def test_refusals_are_told(etcd_server: EtcdServer, namespace: str) -> None:
    async def work(client: EtcdClient) -> None:
        with pytest.raises(EtcdRefusedError, match="too large") as caught:
            await client.put(namespace, b"x" * 2_000_000)
        assert caught.value.code == 3
        with pytest.raises(EtcdRefusedError, match="key is not provided"):
            await client.put("", b"x")
        assert await client.health()

    use(etcd_server, work)


def test_closed_client_refuses(etcd_server: EtcdServer) -> None:
    async def main() -> None:
        client = EtcdClient([etcd_server.endpoint])
        await client.put("k", b"v")
        await client.close()
        with pytest.raises(EtcdError, match="closed"):
            await client.put("k", b"v")

    asyncio.run(main())


@contextlib.asynccontextmanager
async def impostor(answer: bytes, hold: bool = False) -> AsyncIterator[str]:
    """A server that gives the same bytes to everybody, then closes (or holds) the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if hold:
            await asyncio.Event().wait()

    async with listening(serve) as port:
        yield f"http://127.0.0.1:{port}"


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 31\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "expected", "says"),
    [
        (OK + b"Content-Length: 100\r\n\r\n{", EtcdUnavailableError, "middle of an answer"),
        (CHUNKED + b"5\r\n{", EtcdUnavailableError, "middle of an answer"),
        (CHUNKED + b"5\r\n{}{}{}{}\r\n", EtcdUnavailableError, "longer than announced"),
        (CHUNKED + b"zz\r\n{}\r\n", EtcdUnavailableError, "without a length"),
        (b"", EtcdUnavailableError, "middle of an answer"),
        (b"SSH-2.0-OpenSSH_9.0\r\n", EtcdUnavailableError, "does not speak HTTP"),
        (OK + b"\r\n{}", EtcdUnavailableError, "has no length"),
        (OK + b"X: " + b"y" * 200_000 + b"\r\n\r\n", EtcdUnavailableError, "line longer than"),
        (OK + b"X: y\r\n" * 200 + b"\r\n", EtcdUnavailableError, "header lines"),
        (OK + b"Content-Length: 9\r\n\r\n<html>hi!", EtcdProtocolError, "no JSON"),
        (OK + b"Content-Length: 2\r\n\r\n[]", EtcdProtocolError, "no JSON object"),
        (OK + b"Content-Length: 12\r\n\r\n" + b'{"kvs":"no"}', EtcdProtocolError, "'kvs'"),
        (OK + b"Content-Length: 99999999999\r\n\r\n" + b"x" * 1_500_000, EtcdProtocolError, "larger than"),
        (BUSY + b'{"error":"no leader","code":14}', EtcdUnavailableError, "no leader"),
    ],
)
def test_answers_that_etcd_never_gives(
    answer: bytes, expected: type[EtcdError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtdist.serving.etcd.MAX_ANSWER_BYTES", 1_000_000)

    async def main() -> None:
        async with impostor(answer) as url, EtcdClient([url], seconds=1.0) as client:
            with pytest.raises(expected, match=says):
                await client.range("k")

    asyncio.run(main())


def test_endless_message_on_a_watch_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdist.serving.etcd.MAX_ANSWER_BYTES", 100_000)
    created = b'{"result":{"created":true,"header":{"revision":"1"}}}\n'
    body = created + b"x" * 400_000
    answer = CHUNKED + b"%x\r\n%s\r\n" % (len(body), body)

    async def main() -> None:
        async with (
            impostor(answer, hold=True) as url,
            EtcdClient([url], seconds=60) as client,
            client.watch("k", 1) as w,
        ):
            with pytest.raises(EtcdProtocolError, match="larger than"):
                await w.__anext__()

    asyncio.run(main())


def test_cancelled_calls_leave_no_connection_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with impostor(b"", hold=True) as url, EtcdClient([url], seconds=30) as client:
            calls = [client.put("k", b"v"), client.create("k", b"v"), client.watch("k", 1).__aenter__()]
            tasks = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
            done, _ = await asyncio.wait(tasks, timeout=5)
            assert len(done) == 3 and all(task.cancelled() for task in done)

    asyncio.run(main())


@pytest.mark.parametrize(
    "endpoint", ["", "127.0.0.1:2379", "ftp://h:1", "http://h", "http://u:p@h:1", "http://h:1/v3", "http://h:99999"]
)
def test_wrong_addresses_are_refused(endpoint: str) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        EtcdClient([endpoint])


@given(st.from_regex(r"[a-z0-9-]{1,20}|[0-9a-f]{1,4}::[0-9a-f]{1,4}", fullmatch=True), st.integers(1, 65535))
def test_urls_read_back(host: str, port: int) -> None:
    url = http1.Url(host, port, False)
    assert urlsplit(str(url)).port == port
    assert http1.parse_url(str(url)) == url


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_key_range_holds_exactly_the_keys_with_the_prefix(prefix: bytes, other: bytes) -> None:
    bounds = etcd_wire.key_range(prefix.decode("utf-8", "surrogateescape"))
    start, end = (base64.b64decode(bounds[name]) for name in ("key", "range_end"))
    for key in (prefix + other, other):
        if key:
            assert (start <= key and (end == b"\0" or key < end)) == key.startswith(prefix)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kvs", "key", "header", "revision", "events", "kv", "result"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["kvs", "header", "events", "error", "result", "compact_revision"]), JSON))
def test_any_json_is_read_or_refused(raw: dict[str, Any]) -> None:
    for read in (etcd_wire.range_result, etcd_wire.watch_batch, etcd_wire.unwrap_stream, etcd_wire.refusal):
        with contextlib.suppress(EtcdError):
            read(raw)
