"""KV caches over TCP, between servers that are started apart.

    server -> client   challenge: 32 random bytes
    client -> server   frame: {"number", "heads"}, a nonce, and HMAC(key, "ask" + challenge + frame)
    server -> client   frame: {"problem"} or {"bytes"}, and HMAC(key, "answer" + challenge + nonce + frame)
    server -> client   the heads one after the other, as many bytes as said

The key is the run's own (`secrets/kv.key`). Frames are JSON with a length of two bytes in front, so there is nothing
large or executable to send; what arrives is checked against digests that came another way.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import json
import queue
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trtdist.engines.base import EngineError
from trtdist.engines.reference.handle import NOWHERE, Address, Handle, Place
from trtdist.engines.reference.shape import HEADS, head_bytes
from trtdist.engines.reference.store import Store
from trtdist.engines.reference.transport import FETCH_S, Arrival, gone, shares

__all__ = ["TcpTransport", "listening_host", "listening_ports", "read_key"]

_NONCE = 32
_MAC = 32
_MAX_FRAME = 4096
# Fetches that one rank does at the same time; the others wait for their turn.
_FETCHES = 8
# Peers at the same time that have not shown yet that they have the key, and the seconds that each may take for it.
# Further ones wait in the kernel's queue.
_STRANGERS, _ASK_S = 32, 5.0
_BACKLOG = 1024


def listening_host(environ: Mapping[str, str]) -> str:
    """The address of this node that other servers of the run reach; loopback when nothing says otherwise."""
    return environ.get("TRTDIST_NODE_ADDRESS") or environ.get("TRTDIST_HEAD_ADDRESS") or "127.0.0.1"


def listening_ports(environ: Mapping[str, str]) -> Sequence[int]:
    """The ports of network.port_range, in any order; 0, which is any port, when the topology has none."""
    low, _, high = environ.get("TRTDIST_PORT_RANGE", "").partition("-")
    if not low:
        return (0,)
    ports = range(int(low), int(high) + 1)
    return random.SystemRandom().sample(ports, len(ports))


def read_key(run_dir: Path) -> bytes:
    """The key of the run; EngineError when it is not there."""
    path = run_dir / "secrets" / "kv.key"
    try:
        return bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error.strerror}); a run's directory has it") from None
    except ValueError:
        raise EngineError(f"{path} is not a key in hexadecimal digits") from None


class TcpTransport:
    """Serves the store of this rank when `host` is given, at the first free one of `ports`, and fetches.

    `wake` is called when a fetch ended.
    """

    def __init__(
        self, key: bytes, store: Store, wake: Callable[[], None], host: str = "", ports: Sequence[int] = (0,)
    ) -> None:
        self._key = key
        self._store = store
        self._wake = wake
        self._asked: queue.SimpleQueue[_Fetch | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._fetchers = 0
        self._listener = _listen(host, ports) if host else None
        self.place: Place = NOWHERE
        if self._listener is not None:
            self.place = self._listener.getsockname()[:2]
            threading.Thread(target=self._accept, args=(self._listener,), name="kv-accept", daemon=True).start()

    def fetch(self, sequence: int, handle: Handle, heads: range) -> None:
        """Fetch in one of a few threads, which call nothing of MPI."""
        if self._fetchers < _FETCHES:
            self._fetchers += 1
            threading.Thread(target=self._fetch_all, name="kv-fetch", daemon=True).start()
        self._asked.put(_Fetch(sequence, handle, heads, time.monotonic() + FETCH_S))

    def poll(self) -> list[Arrival]:
        """The fetches that ended."""
        ended = []
        while not self._ended.empty():
            ended.append(self._ended.get())
        return ended

    def close(self) -> None:
        """Stop listening; transfers that were asked for go on."""
        for _ in range(self._fetchers):
            self._asked.put(None)
        if self._listener is not None:
            # Closing alone does not wake the thread that waits in accept.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _fetch_all(self) -> None:
        while True:
            asked = self._asked.get()
            if asked is None:
                return
            self._ended.put(self._fetch(asked))
            self._wake()

    def _fetch(self, asked: _Fetch) -> Arrival:
        handle = asked.handle
        arrived: dict[int, bytes] = {}
        problem = ""
        try:
            for place, some in shares(handle, asked.heads):
                assert isinstance(place, tuple)
                arrived.update(_ask(self._key, place, handle, some, asked.end))
        except EngineError as error:
            problem = str(error)
        except OSError as error:
            problem = f"the KV cache did not arrive from {handle.server}: {error.strerror or error}"
        return Arrival(asked.sequence, arrived, problem)

    def _accept(self, listener: socket.socket) -> None:
        strangers = threading.BoundedSemaphore(_STRANGERS)
        while True:
            strangers.acquire()
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, strangers), name="kv-serve", daemon=True).start()

    def _serve(self, connection: socket.socket, strangers: threading.BoundedSemaphore) -> None:
        # Whoever it is may go away or not have the key; the store is as before.
        with contextlib.suppress(OSError, EngineError), connection:
            try:
                challenge = secrets.token_bytes(_NONCE)
                asked, nonce = self._hear(_Peer(connection, time.monotonic() + _ASK_S), challenge)
            finally:
                strangers.release()
            self._answer(_Peer(connection, time.monotonic() + FETCH_S), challenge + nonce, asked)

    def _hear(self, peer: _Peer, challenge: bytes) -> tuple[bytes, bytes]:
        """What a peer asks that has the key, and its nonce."""
        peer.send(challenge)
        asked, nonce = peer.frame(), peer.read(_NONCE)
        _check(self._key, peer.read(_MAC), b"ask", challenge, nonce, asked)
        return asked, nonce

    def _answer(self, peer: _Peer, nonces: bytes, asked: bytes) -> None:
        number, heads = _wanted(asked)
        found = self._store.get(number, heads)
        said = {"problem": "gone"} if found is None else {"bytes": sum(map(len, found.values()))}
        frame = json.dumps(said).encode()
        peer.send(_framed(frame) + _mac(self._key, b"answer", nonces, frame))
        if found is not None:
            peer.send(b"".join(found[head] for head in heads))
            self._store.sent(number, heads)


@dataclass(frozen=True)
class _Fetch:
    sequence: int
    handle: Handle
    heads: range
    end: float


class _Peer:
    """The other end of a connection, until `end` (monotonic time): then all its calls fail with OSError."""

    def __init__(self, connection: socket.socket, end: float) -> None:
        self._connection = connection
        self._end = end

    def send(self, data: bytes) -> None:
        self._connection.settimeout(_left(self._end))
        self._connection.sendall(data)

    def read(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        have = 0
        while have < size:
            self._connection.settimeout(_left(self._end))
            got = self._connection.recv_into(view[have:])
            if not got:
                raise ConnectionError("the connection ended early")
            have += got
        return bytes(data)

    def frame(self) -> bytes:
        size = int.from_bytes(self.read(2), "big")
        if size > _MAX_FRAME:
            raise EngineError("the peer of a KV transfer says more than belongs there")
        return self.read(size)


def _left(end: float) -> float:
    """The seconds until then; OSError when there are none."""
    left = end - time.monotonic()
    if left <= 0:
        raise OSError(errno.ETIMEDOUT, "it took too long")
    return left


def _listen(host: str, ports: Sequence[int]) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
        for port in ports:
            try:
                return socket.create_server((host, port), family=family, backlog=_BACKLOG)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
    except OSError as error:
        raise EngineError(
            f"the KV cache cannot be offered at {host} ({error.strerror or error}): set TRTDIST_NODE_ADDRESS to an"
            " address of this node"
        ) from None
    raise EngineError(f"the KV cache cannot be offered at {host}: no port is free; widen network.port_range")


def _ask(key: bytes, address: Address, handle: Handle, heads: tuple[int, ...], end: float) -> dict[int, bytes]:
    with socket.create_connection(address, timeout=_left(end)) as connection:
        peer = _Peer(connection, end)
        challenge, nonce = peer.read(_NONCE), secrets.token_bytes(_NONCE)
        frame = json.dumps({"number": handle.number, "heads": heads}).encode()
        peer.send(_framed(frame) + nonce + _mac(key, b"ask", challenge, nonce, frame))
        answer = peer.frame()
        _check(key, peer.read(_MAC), b"answer", challenge, nonce, answer)
        size = head_bytes(handle.tokens)
        offered = _offered(answer)
        if offered is None:
            raise EngineError(gone(handle.number, handle.server))
        if offered != size * len(heads):
            raise EngineError(f"{handle.server} offers {offered} KV bytes in place of {size * len(heads)}")
        return {head: peer.read(size) for head in heads}


def _mac(key: bytes, what: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, what + b"".join(parts), hashlib.sha256).digest()


def _check(key: bytes, mac: bytes, what: bytes, *parts: bytes) -> None:
    if not hmac.compare_digest(mac, _mac(key, what, *parts)):
        raise EngineError("the peer of a KV transfer does not have the key of this run")


def _framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(2, "big") + frame


def _wanted(frame: bytes) -> tuple[int, tuple[int, ...]]:
    """The KV cache and the heads that a peer asks for; EngineError when it does not say so."""
    try:
        raw = json.loads(frame)
        return int(raw["number"]), tuple(int(head) for head in raw["heads"][:HEADS])
    except (ValueError, TypeError, LookupError):
        raise EngineError("the peer of a KV transfer asks for nothing that there is") from None


def _offered(frame: bytes) -> int | None:
    """How many bytes a peer is about to send, None when it has not what was asked for."""
    try:
        raw = json.loads(frame)
        return None if "problem" in raw else int(raw["bytes"])
    except (ValueError, TypeError, LookupError):
        raise EngineError("the peer of a KV transfer answers with nonsense") from None
