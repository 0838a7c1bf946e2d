"""KV caches over TCP, between servers that are started apart.

    server -> client   challenge: 32 random bytes
    client -> server   frame: {"number", "heads"}, a nonce, and HMAC(key, "ask" + challenge + frame)
    server -> client   frame: {"problem"} or {"bytes"}, and HMAC(key, "answer" + challenge + nonce + frame)
    server -> client   the heads one after the other, as many bytes as said

The key is the run's own (`secrets/kv.key`). Frames are JSON with a length of two bytes in front, so there is nothing
large or executable to send; what arrives is checked against digests that came another way.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import queue
import random
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trtdist.engines.base import EngineError
from trtdist.engines.reference.handle import Address, Handle, Place
from trtdist.engines.reference.shape import HEADS, head_bytes
from trtdist.engines.reference.store import Store
from trtdist.engines.reference.transport import FETCH_S, Arrival, gone, shares

__all__ = ["TcpTransport", "listening_host", "listening_ports", "read_key"]

_NONCE = 32
_MAC = 32
_MAX_FRAME = 4096
_CONNECTIONS = 32
# A peer that says nothing for so many seconds is given up.
_SILENCE_S = 10.0


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
        self._ended: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._listener = _listen(host, ports) if host else None
        self.place: Place = ("", 0)
        if self._listener is not None:
            self.place = self._listener.getsockname()[:2]
            threading.Thread(target=self._accept, args=(self._listener,), name="kv-accept", daemon=True).start()

    def fetch(self, sequence: int, handle: Handle, heads: range) -> None:
        """Fetch in a thread of its own, which calls nothing of MPI."""
        threading.Thread(target=self._fetch, args=(sequence, handle, heads), name="kv-fetch", daemon=True).start()

    def poll(self) -> list[Arrival]:
        """The fetches that ended."""
        ended = []
        while not self._ended.empty():
            ended.append(self._ended.get())
        return ended

    def close(self) -> None:
        """Stop listening; transfers that have begun go on."""
        if self._listener is not None:
            # Closing alone does not wake the thread that waits in accept.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _fetch(self, sequence: int, handle: Handle, heads: range) -> None:
        arrived: dict[int, bytes] = {}
        problem = ""
        try:
            for place, some in shares(handle, heads):
                assert isinstance(place, tuple)
                arrived.update(_ask(self._key, place, handle, some))
        except EngineError as error:
            problem = str(error)
        except OSError as error:
            problem = f"the KV cache did not arrive from {handle.server}: {error.strerror or error}"
        self._ended.put(Arrival(sequence, arrived, problem))
        self._wake()

    def _accept(self, listener: socket.socket) -> None:
        free = threading.BoundedSemaphore(_CONNECTIONS)
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if free.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(connection, free), name="kv-serve", daemon=True).start()
            else:
                connection.close()

    def _serve(self, connection: socket.socket, free: threading.BoundedSemaphore) -> None:
        try:
            with connection:
                self._answer(connection)
        except (OSError, EngineError):
            # Whoever it was went away or has not the key; the store is as before.
            pass
        finally:
            free.release()

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(_SILENCE_S)
        challenge = secrets.token_bytes(_NONCE)
        connection.sendall(challenge)
        asked, nonce = _read_frame(connection), _read(connection, _NONCE)
        _check(self._key, _read(connection, _MAC), b"ask", challenge, nonce, asked)
        number, heads = _wanted(asked)
        found = self._store.get(number, heads)
        said = {"problem": "gone"} if found is None else {"bytes": sum(map(len, found.values()))}
        frame = json.dumps(said).encode()
        connection.sendall(_framed(frame) + _mac(self._key, b"answer", challenge, nonce, frame))
        if found is not None:
            connection.sendall(b"".join(found[head] for head in heads))
            self._store.sent(number, heads)


def _listen(host: str, ports: Sequence[int]) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
        for port in ports:
            try:
                return socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
    except OSError as error:
        raise EngineError(
            f"the KV cache cannot be offered at {host} ({error.strerror or error}): set TRTDIST_NODE_ADDRESS to an"
            " address of this node"
        ) from None
    raise EngineError(f"the KV cache cannot be offered at {host}: no port is free; widen network.port_range")


def _ask(key: bytes, address: Address, handle: Handle, heads: tuple[int, ...]) -> dict[int, bytes]:
    with socket.create_connection(address, timeout=FETCH_S) as connection:
        connection.settimeout(_SILENCE_S)
        challenge, nonce = _read(connection, _NONCE), secrets.token_bytes(_NONCE)
        frame = json.dumps({"number": handle.number, "heads": heads}).encode()
        connection.sendall(_framed(frame) + nonce + _mac(key, b"ask", challenge, nonce, frame))
        answer = _read_frame(connection)
        _check(key, _read(connection, _MAC), b"answer", challenge, nonce, answer)
        said = json.loads(answer)
        if "problem" in said:
            raise EngineError(gone(handle.number, handle.server))
        size = head_bytes(handle.tokens)
        if said["bytes"] != size * len(heads):
            raise EngineError(f"{handle.server} offers {said['bytes']} KV bytes in place of {size * len(heads)}")
        return {head: _read(connection, size) for head in heads}


def _mac(key: bytes, what: bytes, challenge: bytes, nonce: bytes, frame: bytes) -> bytes:
    return hmac.new(key, what + challenge + nonce + frame, hashlib.sha256).digest()


def _check(key: bytes, mac: bytes, what: bytes, challenge: bytes, nonce: bytes, frame: bytes) -> None:
    if not hmac.compare_digest(mac, _mac(key, what, challenge, nonce, frame)):
        raise EngineError("the peer of a KV transfer does not have the key of this run")


def _framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(2, "big") + frame


def _read_frame(connection: socket.socket) -> bytes:
    size = int.from_bytes(_read(connection, 2), "big")
    if size > _MAX_FRAME:
        raise EngineError("the peer of a KV transfer says more than belongs there")
    return _read(connection, size)


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    have = 0
    while have < size:
        got = connection.recv_into(view[have:])
        if not got:
            raise ConnectionError("the connection ended early")
        have += got
    return bytes(data)


def _wanted(frame: bytes) -> tuple[int, tuple[int, ...]]:
    """What an authenticated peer asks for."""
    raw: dict[str, Any] = json.loads(frame)
    return int(raw["number"]), tuple(int(head) for head in raw["heads"][:HEADS])
