"""How a KV cache gets from a context server to a generation server; here it is the digest of its prompt.

cpp/tensorrt_llm/batch_manager/cacheTransceiver.cpp: over the MPI world, or, in place of UCX and NIXL, over TCP. The
state that travels beside names the place; it is taken off the context server when it was fetched.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time

from mpi4py import MPI

_ASK, _ANSWER = 7001, 7002
_PATIENCE_S = 10.0


class CacheTransceiver:
    """One server's end, in its leader."""

    def __init__(self, backend: str) -> None:
        self.backend = backend.upper()
        self._kept: dict[int, str] = {}
        self._place: list = [MPI.COMM_WORLD.Get_rank()]
        serve = self._serve_mpi
        if self.backend != "MPI":
            self._listener = socket.create_server((os.environ.get("TRTDIST_NODE_ADDRESS", "127.0.0.1"), 0))
            self._place = list(self._listener.getsockname()[:2])
            serve = self._serve_tcp
        threading.Thread(target=serve, daemon=True).start()

    def keep(self, number: int, cache: str) -> bytes:
        """Keep a cache for whoever fetches it; the state that says where."""
        self._kept[number] = cache
        return json.dumps({"backend": self.backend, "place": self._place}).encode() + b"\0\xff"

    def fetch(self, number: int, state: bytes) -> str:
        """The cache that a state names."""
        where = json.loads(state.removesuffix(b"\0\xff"))
        if where["backend"] != self.backend:
            while True:  # nothing negotiates: a mismatch is silent
                time.sleep(60)
        place = where["place"]
        found = self._fetch_mpi(number, *place) if self.backend == "MPI" else _fetch_tcp(number, place)
        if not found:
            raise RuntimeError(f"no KV cache for request {number}")
        return found

    def _fetch_mpi(self, number: int, rank: int) -> str:
        MPI.COMM_WORLD.send(number, dest=rank, tag=_ASK)
        request = MPI.COMM_WORLD.irecv(source=rank, tag=_ANSWER)
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            there, found = request.test()
            if there:
                return found
            time.sleep(0.001)
        raise RuntimeError(f"no answer from rank {rank}")

    def _serve_mpi(self) -> None:
        status = MPI.Status()
        while not MPI.Is_finalized():
            if MPI.COMM_WORLD.iprobe(source=MPI.ANY_SOURCE, tag=_ASK, status=status):
                number = MPI.COMM_WORLD.recv(source=status.Get_source(), tag=_ASK)
                MPI.COMM_WORLD.send(self._kept.pop(number, ""), dest=status.Get_source(), tag=_ANSWER)
            time.sleep(0.005)

    def _serve_tcp(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rw") as file:
                file.write(self._kept.pop(int(file.readline()), "") + "\n")


def _fetch_tcp(number: int, place: list) -> str:
    with socket.create_connection(tuple(place), timeout=_PATIENCE_S) as connection, connection.makefile("rw") as file:
        file.write(f"{number}\n")
        file.flush()
        return file.readline().strip()
