"""A client of etcd's v3 JSON gateway on asyncio and the standard library.

gRPC clients bring a protobuf that fights the engine image over its version; the gateway needs HTTP and JSON only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Callable, TypeVar

from trtdist.errors import InputError
from trtdist.serving.etcd_wire import (
    CompactedError,
    EtcdError,
    EtcdProtocolError,
    EtcdRefusedError,
    EtcdUnavailableError,
    KeyValue,
    LeaseGoneError,
    RangeResult,
    WatchBatch,
    WatchEvent,
    b64,
    decode_object,
    encode_key,
    header_revision,
    int_field,
    key_range,
    range_result,
    refusal,
    unwrap_stream,
    watch_batch,
)
from trtdist.serving.http1 import Connection, HttpError, Reply, TooLargeError, Url, parse_url
from trtdist.serving.waiting import within

__all__ = [
    "CompactedError",
    "EtcdClient",
    "EtcdError",
    "EtcdProtocolError",
    "EtcdRefusedError",
    "EtcdUnavailableError",
    "KeyValue",
    "LeaseGoneError",
    "RangeResult",
    "Watch",
    "WatchBatch",
    "WatchEvent",
]

T = TypeVar("T")

MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_IDLE_CONNECTIONS = 4
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
# gRPC: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE; another member, or the same one later, may do it.
PASSING_CODES = (4, 8, 14)


class _NotSentError(Exception):
    """The request never left: it can be sent to another endpoint whatever it is."""


PASSING_ERRORS = (OSError, HttpError, _NotSentError, asyncio.TimeoutError)


class EtcdClient:
    """Calls are tried at each endpoint in turn, with back-off, until one answers or `seconds` are over.

    Use in `async with`. Every method raises an EtcdError. `tls` holds the trust and the client's certificate for
    https endpoints.
    """

    def __init__(self, endpoints: Sequence[str], tls: ssl.SSLContext | None = None, seconds: float = 5.0) -> None:
        if not endpoints:
            raise InputError("no etcd endpoint is given: write it as http://HOST:PORT")
        self._urls = [parse_url(endpoint) for endpoint in endpoints]
        self._tls = tls
        self._seconds = seconds
        self._idle: list[Connection] = []
        self._closed = False

    async def __aenter__(self) -> EtcdClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; later calls fail."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write a key, bound to a lease when one is given; gives the revision. LeaseGoneError when that is gone."""
        return header_revision(await self._call("/v3/kv/put", _put(key, value, lease)))

    async def get(self, key: str) -> KeyValue | None:
        """The key's value, None when it is not there."""
        found = range_result(await self._call("/v3/kv/range", {"key": b64(encode_key(key))}))
        return found.items[0] if found.items else None

    async def range(self, prefix: str, keys_only: bool = False, seconds: float | None = None) -> RangeResult:
        """All keys that start with `prefix`, in order; without values when `keys_only`."""
        asked = {**key_range(prefix), "keys_only": keys_only}
        return range_result(await self._call("/v3/kv/range", asked, seconds))

    async def delete(self, key: str) -> int:
        """Delete a key; gives how many there were (0 or 1)."""
        return int_field(await self._call("/v3/kv/deleterange", {"key": b64(encode_key(key))}), "deleted")

    async def create(self, key: str, value: bytes, lease: int = 0) -> bool:
        """Write a key only if it does not exist; says whether it did not.

        Sent once: after EtcdUnavailableError it may have happened or not.
        """
        absent = {"target": "VERSION", "result": "EQUAL", "key": b64(encode_key(key)), "version": "0"}
        asked = {"compare": [absent], "success": [{"request_put": _put(key, value, lease)}]}
        answer = await self._once("/v3/kv/txn", asked)
        return bool(answer.get("succeeded", False))

    async def replace(self, key: str, value: bytes, lease: int = 0) -> bool:
        """Write a key only if it exists; says whether it did. Sent once, as `create`."""
        there = {"target": "VERSION", "result": "GREATER", "key": b64(encode_key(key)), "version": "0"}
        asked = {"compare": [there], "success": [{"request_put": _put(key, value, lease)}]}
        answer = await self._once("/v3/kv/txn", asked)
        return bool(answer.get("succeeded", False))

    async def grant(self, ttl: int) -> int:
        """A new lease of `ttl` seconds; gives its id."""
        lease = int_field(await self._call("/v3/lease/grant", {"TTL": str(ttl)}), "ID")
        if lease <= 0:
            raise EtcdProtocolError("etcd granted a lease without an id")
        return lease

    async def keep_alive(self, lease: int, seconds: float | None = None) -> int:
        """Renew a lease; gives the seconds that it has again. LeaseGoneError when it is gone."""
        answer = unwrap_stream(await self._call("/v3/lease/keepalive", {"ID": str(lease)}, seconds))
        ttl = int_field(answer, "TTL")
        if ttl <= 0:
            raise LeaseGoneError(f"etcd has no lease {lease:x} any more: it was not renewed in time, or revoked", 5)
        return ttl

    async def time_to_live(self, lease: int) -> int:
        """The seconds that a lease has left; LeaseGoneError when it is gone."""
        ttl = int_field(await self._call("/v3/lease/timetolive", {"ID": str(lease)}), "TTL")
        if ttl < 0:
            raise LeaseGoneError(f"etcd has no lease {lease:x} any more", 5)
        return ttl

    async def revoke(self, lease: int, seconds: float | None = None) -> None:
        """End a lease and delete its keys; LeaseGoneError when it was gone already."""
        await self._call("/v3/lease/revoke", {"ID": str(lease)}, seconds)

    async def health(self) -> bool:
        """Whether the first endpoint that answers says that it is healthy."""
        reply = await self._retry(lambda url: self._exchange(url, "GET", "/health", b""), self._seconds)
        return reply.status == 200 and decode_object(reply.body).get("health") in ("true", True)

    def watch(self, prefix: str, start_revision: int) -> Watch:
        """All changes to keys that start with `prefix`, from a revision on; use it in `async with`."""
        return Watch(self, prefix, start_revision)

    async def _call(self, path: str, asked: dict[str, Any], seconds: float | None = None) -> dict[str, Any]:
        body = json.dumps(asked).encode()
        limit = self._seconds if seconds is None else seconds
        return await self._retry(lambda url: self._unary(url, path, body), limit)

    async def _once(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(asked).encode()
        try:
            return await self._retry(lambda url: self._unary_once(url, path, body), self._seconds, (_NotSentError,))
        except (OSError, HttpError, asyncio.TimeoutError) as error:
            reason = str(error) or "no answer in time"
            raise EtcdUnavailableError(f"etcd may have done what was asked or not ({reason}): is it running?") from None

    async def _retry(
        self,
        attempt: Callable[[Url], Coroutine[Any, Any, T]],
        seconds: float,
        passing: tuple[type[Exception], ...] = PASSING_ERRORS,
    ) -> T:
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        pause = FIRST_PAUSE_S
        problem = ""
        while True:
            for url in list(self._urls):
                try:
                    result = await within((end - clock()) / len(self._urls), attempt(url))
                except passing as error:
                    # The last attempt is cut short by the deadline: what an earlier one said tells more.
                    if str(error) or not problem:
                        problem = f"{url}: {str(error) or 'no answer in time'}"
                    self._urls.append(self._urls.pop(self._urls.index(url)))
                else:
                    return result
            if clock() + pause >= end:
                raise EtcdUnavailableError(f"etcd did not answer within {seconds:g} s ({problem}): is it running?")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _unary(self, url: Url, path: str, body: bytes) -> dict[str, Any]:
        return _answer(await self._exchange(url, "POST", path, body))

    async def _unary_once(self, url: Url, path: str, body: bytes) -> dict[str, Any]:
        connection = await self._open(url)
        try:
            return _answer(await connection.exchange("POST", path, body, MAX_ANSWER_BYTES))
        finally:
            await connection.close()

    async def _exchange(self, url: Url, method: str, path: str, body: bytes) -> Reply:
        connection = await self._take(url)
        try:
            return await connection.exchange(method, path, body, MAX_ANSWER_BYTES)
        except TooLargeError as error:
            raise EtcdProtocolError(f"etcd at {url} is not usable: {error}") from None
        finally:
            await self._give_back(connection)

    async def _take(self, url: Url) -> Connection:
        for connection in [idle for idle in self._idle if idle.url == url]:
            self._idle.remove(connection)
            if connection.reusable:
                return connection
            await connection.close()
        return await self._open(url)

    async def _open(self, url: Url) -> Connection:
        if self._closed:
            raise EtcdError("the connection to etcd was closed by this program")
        try:
            return await Connection.open(url, self._tls)
        except OSError as error:
            raise _NotSentError(error.strerror or str(error)) from None

    async def _give_back(self, connection: Connection) -> None:
        if self._closed or not connection.reusable or len(self._idle) >= MAX_IDLE_CONNECTIONS:
            await connection.close()
        else:
            self._idle.append(connection)


class Watch:
    """An open watch: an async iterator of WatchBatch on a connection of its own.

    Entering it tries the endpoints in turn, as a call does. It ends only by an error: EtcdUnavailableError when the
    connection ends, CompactedError when history is missing.
    """

    def __init__(self, client: EtcdClient, prefix: str, start_revision: int) -> None:
        self._client = client
        create = {**key_range(prefix), "start_revision": str(start_revision), "progress_notify": True}
        self._body = json.dumps({"create_request": create}).encode()
        self._connection: Connection | None = None
        self._buffer = bytearray()

    async def __aenter__(self) -> Watch:
        async with contextlib.AsyncExitStack() as unless_open:
            unless_open.push_async_callback(self._drop)
            await self._client._retry(self._start, self._client._seconds)
            unless_open.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._drop()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> WatchBatch:
        try:
            return watch_batch(unwrap_stream(decode_object(await self._line())))
        except (OSError, HttpError) as error:
            raise EtcdUnavailableError(f"the watch on etcd was cut off ({error})") from None

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _start(self, url: Url) -> None:
        await self._drop()
        self._buffer.clear()
        self._connection = await self._client._open(url)
        status = await self._connection.request("POST", "/v3/watch", self._body)
        first = decode_object(await self._line())
        if status != 200:
            _raise_refusal(first)
        if not unwrap_stream(first).get("created"):
            raise EtcdProtocolError("etcd did not start the watch that was asked for")

    async def _line(self) -> bytes:
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return line
            searched = len(self._buffer)
            if searched > MAX_ANSWER_BYTES:
                raise EtcdProtocolError(f"etcd sent a message larger than {MAX_ANSWER_BYTES} bytes on a watch")
            piece = await self._connection.read() if self._connection is not None else b""
            if not piece:
                raise HttpError("it ended the stream")
            self._buffer += piece


def _put(key: str, value: bytes, lease: int) -> dict[str, str]:
    asked = {"key": b64(encode_key(key)), "value": b64(value)}
    return {**asked, "lease": str(lease)} if lease else asked


def _answer(reply: Reply) -> dict[str, Any]:
    raw = decode_object(reply.body)
    if reply.status != 200:
        _raise_refusal(raw)
    return raw


def _raise_refusal(raw: dict[str, Any]) -> None:
    error = refusal(raw)
    if error.code in PASSING_CODES:
        raise HttpError(str(error))
    raise error
