"""A KV cache is used, protected, and freed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engines.real_run import until
from tests.engines.simulated import Deployment
from tests.engines.topologies import KEY, continued, disaggregated
from trtdist.engines.base import (
    CONTEXT_ONLY,
    DisaggregatedParams,
    EngineError,
    EngineOutput,
    GenerateRequest,
    Sampling,
)
from trtdist.engines.reference import tcp
from trtdist.engines.reference.handle import Handle, parse
from trtdist.engines.reference.shape import head_bytes
from trtdist.engines.reference.store import Store
from trtdist.engines.reference.tcp import TcpTransport, listening_host, listening_ports, read_key
from trtdist.engines.reference.transport import Arrival

SAMPLING = Sampling(max_tokens=4, temperature=0)
LAUNCHES = pytest.mark.parametrize("launch", ["mpi_world", "per_server"])
TPS = pytest.mark.parametrize("tps", [(1, 1), (2, 1), (1, 2)])


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "kv.key").write_text(KEY)
    return tmp_path


def during(
    launch: str,
    run_dir: Path,
    work: Callable[[Deployment, EngineOutput], Awaitable[None]],
    tps: tuple[int, int] = (1, 1),
) -> None:
    """Run something while a context server keeps a KV cache."""

    async def whole() -> None:
        async with Deployment(disaggregated(launch, *tps), run_dir) as deployment:
            request = GenerateRequest("r", SAMPLING, "Hello", request_type=CONTEXT_ONLY)
            [kept] = [output async for output in deployment.engines["ctx.0"].generate(request)]
            await work(deployment, kept)

    asyncio.run(whole())


async def go_on(deployment: Deployment, request: GenerateRequest) -> list[EngineOutput]:
    return [output async for output in deployment.engines["gen.0"].generate(request)]


async def empty(stores: list[Store]) -> None:
    """Wait until nothing is kept."""
    for _ in range(1000):
        if not any(map(len, stores)):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a KV cache is still kept")


@LAUNCHES
@TPS
def test_it_is_freed_once_it_was_fetched(launch: str, tps: tuple[int, int], run_dir: Path) -> None:
    async def work(deployment: Deployment, kept: EngineOutput) -> None:
        stores = deployment.stores("ctx.0")
        assert [len(store) for store in stores] == [1] * tps[0]
        await go_on(deployment, continued(kept, SAMPLING))
        await empty(stores)
        with pytest.raises(EngineError, match=r"ctx\.0 has no KV cache"):
            await go_on(deployment, continued(kept, SAMPLING))

    during(launch, run_dir, work, tps)


@LAUNCHES
@TPS
def test_it_is_freed_when_released(launch: str, tps: tuple[int, int], run_dir: Path) -> None:
    async def work(deployment: Deployment, kept: EngineOutput) -> None:
        assert kept.disaggregated is not None
        await deployment.engines["ctx.0"].release(kept.disaggregated.context_request_id)
        await empty(deployment.stores("ctx.0"))
        with pytest.raises(EngineError, match="no KV cache"):
            await go_on(deployment, continued(kept, SAMPLING))

    during(launch, run_dir, work, tps)


@LAUNCHES
@TPS
@pytest.mark.parametrize("place", [0, -1])
def test_one_flipped_byte_is_refused(launch: str, tps: tuple[int, int], place: int, run_dir: Path) -> None:
    async def work(deployment: Deployment, kept: EngineOutput) -> None:
        [found] = deployment.stores("ctx.0")[-1]._kept.values()
        head = max(found.heads)
        data = bytearray(found.heads[head])
        data[place] ^= 1
        found.heads = {**found.heads, head: bytes(data)}
        with pytest.raises(EngineError, match=f"damaged at head {head}"):
            await go_on(deployment, continued(kept, SAMPLING))

    during(launch, run_dir, work, tps)


def changed(kept: EngineOutput, **values: Any) -> DisaggregatedParams:
    assert kept.disaggregated is not None
    state = json.dumps({**json.loads(kept.disaggregated.opaque_state), **values}).encode()
    number = values.get("number", kept.disaggregated.context_request_id)
    return DisaggregatedParams(kept.disaggregated.first_token_ids, number, state)


@LAUNCHES
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"number": 12345}, "no KV cache"),
        ({"tokens": 5}, "damaged|in place of"),
        ({"server": "gen.0"}, "no context server"),
        ({"server": "ctx.7"}, "no context server"),
        ({"places": [77]}, "where that server is not|damaged"),
    ],
)
def test_a_handle_that_is_not_true_is_refused(launch: str, change: dict[str, Any], told: str, run_dir: Path) -> None:
    if launch == "per_server" and "places" in change:
        told = "where that server is not"

    async def work(deployment: Deployment, kept: EngineOutput) -> None:
        request = GenerateRequest("r", SAMPLING, request_type="generation_only", disaggregated=changed(kept, **change))
        with pytest.raises(EngineError, match=told):
            await go_on(deployment, request)
        # The server is none the worse for it.
        assert (await go_on(deployment, GenerateRequest("s", SAMPLING, "x")))[-1].finish_reason == "length"

    during(launch, run_dir, work)


def test_another_prompt_is_refused(run_dir: Path) -> None:
    async def work(deployment: Deployment, kept: EngineOutput) -> None:
        with pytest.raises(EngineError, match="another prompt"):
            await go_on(deployment, continued(kept, SAMPLING, "Hello?"))

    during("mpi_world", run_dir, work)


def test_nobody_is_there_to_ask(run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def work(deployment: Deployment, kept: EngineOutput) -> None:
        params = changed(kept, places=[["127.0.0.1", port]])
        with pytest.raises(EngineError, match="did not arrive"):
            await go_on(
                deployment, GenerateRequest("r", SAMPLING, request_type="generation_only", disaggregated=params)
            )

    during("per_server", run_dir, work)


def test_a_time_limit_frees_what_nobody_fetches() -> None:
    now = [0.0]
    store = Store(120, lambda: now[0])
    store.keep(1, {0: b"x"})
    now[0] = 119
    store.expire()
    assert len(store) == 1 and store.get(1, [0]) == {0: b"x"} and store.get(1, [1]) is None
    now[0] = 121
    store.expire()
    assert len(store) == 0 and store.get(1, [0]) is None


def handle(place: Any) -> Handle:
    return Handle(1, "ctx.0", 3, (place,), ("0" * 32,) * 8, "0" * 32, "0" * 32)


def fetch(transport: TcpTransport, place: Any, ended: threading.Event) -> Any:
    transport.fetch(4, handle(place), range(8))
    assert ended.wait(30)
    ended.clear()
    [arrival] = transport.poll()
    return arrival


def test_the_key_of_the_run_opens_the_store_and_no_other() -> None:
    store, ended = Store(), threading.Event()
    data = {head: bytes([head]) * head_bytes(3) for head in range(8)}
    store.keep(1, data)
    server = TcpTransport(b"right", store, ended.set, "127.0.0.1")
    try:
        wrong = fetch(TcpTransport(b"wrong", Store(), ended.set), server.place, ended)
        assert wrong.problem and not wrong.heads and len(store) == 1
        right = fetch(TcpTransport(b"right", Store(), ended.set), server.place, ended)
        assert right.problem == "" and right.heads == data
        # Who sends learns a moment later than who receives that all has been sent.
        until(lambda: len(store) == 0, "the store lets it go")
    finally:
        server.close()
    late = fetch(TcpTransport(b"right", Store(), ended.set), server.place, ended)
    assert "did not arrive" in late.problem


@pytest.mark.parametrize("said", [b"", b"\xff\xff", b"GET / HTTP/1.1\r\n\r\n" * 20, b"\x00\x02{}" + b"0" * 64])
def test_strangers_get_nothing(said: bytes) -> None:
    store = Store()
    store.keep(1, {0: b"secret"})
    server = TcpTransport(b"key", store, lambda: None, "127.0.0.1")
    try:
        assert isinstance(server.place, tuple)
        with socket.create_connection(server.place, timeout=30) as stranger:
            assert len(stranger.recv(32)) == 32
            # It may have hung up before all was said.
            try:
                stranger.sendall(said)
                stranger.shutdown(socket.SHUT_WR)
                heard = stranger.recv(1)
            except OSError:
                heard = b""
            assert heard == b"" and len(store) == 1
    finally:
        server.close()


def test_three_hundred_fetches_at_once() -> None:
    store, asked = Store(), 300
    data = {head: bytes(head_bytes(3)) for head in range(8)}
    for number in range(asked):
        store.keep(number, data)
    server, client = TcpTransport(b"key", store, lambda: None, "127.0.0.1"), TcpTransport(b"key", Store(), lambda: None)
    arrivals: list[Arrival] = []

    def all_arrived() -> bool:
        arrivals.extend(client.poll())
        return len(arrivals) == asked

    try:
        for number in range(asked):
            client.fetch(number, replace(handle(server.place), number=number), range(8))
        assert sum(thread.name == "kv-fetch" for thread in threading.enumerate()) < 20
        until(all_arrived, "every KV cache")
    finally:
        client.close()
        server.close()
    assert {arrival.problem for arrival in arrivals} == {""}
    until(lambda: len(store) == 0, "the store lets all of them go")


def test_strangers_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_ASK_S", 1.0)
    store, ended = Store(), threading.Event()
    store.keep(1, {head: bytes(head_bytes(3)) for head in range(8)})
    server = TcpTransport(b"key", store, lambda: None, "127.0.0.1")
    assert isinstance(server.place, tuple)
    with contextlib.ExitStack() as stack:
        stack.callback(server.close)
        for _ in range(2 * tcp._STRANGERS):
            stack.enter_context(socket.create_connection(server.place, timeout=30))
        arrival = fetch(TcpTransport(b"key", Store(), ended.set), server.place, ended)
    assert arrival.problem == ""
    until(lambda: len(store) == 0, "the store lets it go")


NONSENSE = [
    b"[]",
    b"{}",
    b"no JSON",
    b"\xff",
    b"3",
    b'{"number": [], "heads": 3}',
    b'{"number": 1, "heads": 3, "bytes": []}',
]


@pytest.mark.parametrize("asked", NONSENSE)
def test_nonsense_from_one_with_the_key_is_refused(asked: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    key = b"key"
    server = TcpTransport(key, Store(), lambda: None, "127.0.0.1")
    try:
        assert isinstance(server.place, tuple)
        with socket.create_connection(server.place, timeout=30) as peer:
            challenge, nonce = peer.recv(32), b"n" * 32
            mac = hmac.new(key, b"ask" + challenge + nonce + asked, hashlib.sha256).digest()
            peer.sendall(len(asked).to_bytes(2, "big") + asked + nonce + mac)
            assert peer.recv(1) == b""
    finally:
        server.close()
    assert "Traceback" not in capfd.readouterr().err


def fetched_from_a_server_that(says: bytes, key: bytes) -> Any:
    """What comes of a fetch with the key `key` from somebody who has that key."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pretend() -> None:
            connection, _ = listener.accept()
            with connection:
                challenge = b"c" * 32
                connection.sendall(challenge)
                nonce = connection.recv(4096)[-64:-32]
                mac = hmac.new(b"key", b"answer" + challenge + nonce + says, hashlib.sha256).digest()
                connection.sendall(len(says).to_bytes(2, "big") + says + mac + b"\0" * 8 * head_bytes(3))

        thread = threading.Thread(target=pretend)
        thread.start()
        arrival = fetch(TcpTransport(key, Store(), ended.set), listener.getsockname(), ended)
        thread.join()
    return arrival


def test_a_server_without_the_key_is_not_believed() -> None:
    offer = json.dumps({"bytes": 8 * head_bytes(3)}).encode()
    assert fetched_from_a_server_that(offer, b"key").problem == ""
    arrival = fetched_from_a_server_that(offer, b"another key")
    assert "key of this run" in arrival.problem and not arrival.heads


@pytest.mark.parametrize("said", NONSENSE)
def test_nonsense_from_a_server_fails_the_fetch(said: bytes) -> None:
    assert "nonsense" in fetched_from_a_server_that(said, b"key").problem


def test_where_a_context_server_listens() -> None:
    assert listening_host({}) == "127.0.0.1"
    assert listening_host({"TRTDIST_HEAD_ADDRESS": "10.0.0.1"}) == "10.0.0.1"
    assert listening_host({"TRTDIST_HEAD_ADDRESS": "10.0.0.1", "TRTDIST_NODE_ADDRESS": "10.0.0.2"}) == "10.0.0.2"
    with pytest.raises(EngineError, match="TRTDIST_NODE_ADDRESS"):
        TcpTransport(b"key", Store(), lambda: None, "192.0.2.1")


def test_a_run_without_a_key_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"kv\.key"):
        read_key(tmp_path)


def test_the_state_tells_what_it_must(run_dir: Path) -> None:
    async def work(deployment: Deployment, kept: EngineOutput) -> None:
        assert kept.disaggregated is not None
        found = parse(kept.disaggregated.opaque_state)
        assert found.tokens == 6 and len(found.places) == 2 and found.server == "ctx.0"
        assert all(isinstance(place, tuple) and place[0] == "127.0.0.1" for place in found.places)

    during("per_server", run_dir, work, (2, 1))


def test_the_cache_is_offered_in_the_range_of_ports() -> None:
    assert list(listening_ports({})) == [0]
    assert sorted(listening_ports({"TRTDIST_PORT_RANGE": "7-9"})) == [7, 8, 9]
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(EngineError, match=r"widen network\.port_range"):
            TcpTransport(b"k", Store(), lambda: None, "127.0.0.1", (taken,))
        server = TcpTransport(b"k", Store(), lambda: None, "127.0.0.1", (taken, 0))
        assert server.place[1] not in (0, taken)
        server.close()
