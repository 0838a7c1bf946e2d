"""How the ranks of an MPI world that reaches over TCP meet, and let nobody else in.

Open MPI listens at a port on all interfaces, asks nobody there who he is, and opens connections when it first needs
them. So, as soon as MPI has started, all ranks send each other what opens every connection that they will ever need.
Then each makes its ports deaf, and all show each other, with the run's key, which connections are theirs: one that none
of them has is a stranger's, who came before, and ends the world before it has any work.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trtdist.engines.base import EngineError
from trtdist.sockets import CLOSING, ESTABLISHED, LISTENING, TcpSocket, held, make_deaf, tcp_sockets

__all__ = ["meet", "open_doors", "over_tcp"]

_TAG = 2
# A short message takes one way between two ranks, a long one all, and which comes first changes from one to the next.
# Open MPI has a way for each network that the nodes share: so many rounds of both find all of them, but no fewer.
_SIZES = (1, 1 << 18)
_ROUNDS, _MOST_ROUNDS = 3, 64
_MOST_BYTES = 1 << 24
_NONCE, _MAC = 32, 32
# From the first message to the last, on any network.
_MEETING_S = 60.0
# Of two ranks that connect to each other at once, one closes its connection.
_CLOSING_S = 10.0
_PAUSE_S = 0.0005
# The inode of a connection that no process has accepted.
_UNSEEN = "0"


def over_tcp(environ: Mapping[str, str]) -> bool:
    """Whether the launch line lets ranks reach each other over TCP; the same for all ranks of a world."""
    given = environ.get("OMPI_MCA_btl", "tcp").strip()
    named = "tcp" in [word.strip() for word in given.lstrip("^").split(",")]
    # With ^ before them, they are those that are left out.
    return named != given.startswith("^")


def open_doors() -> list[TcpSocket]:
    """Where this process listens on all interfaces, as MPI does and nothing of ours.

    There may be such before MPI starts: what Slurm starts inherits a port of its PMIx, which is not this process's to
    shut.
    """
    mine = held(os.getpid())
    return [
        each
        for each in tcp_sockets()
        if each.state == LISTENING and each.inode in mine and not each.local.partition(":")[0].strip("0")
    ]


def meet(mpi: Any, doors: Sequence[TcpSocket], key: bytes, say: Callable[[str], None]) -> None:
    """Connect all ranks and close the doors of this one; all ranks of the world call it, right after MPI has started.

    `say` takes a sentence when they stay open. EngineError when somebody else is connected; where ranks do not answer
    in time, as when somebody holds them up, the process ends, since MPI may never return.
    """
    talk = _Talk(mpi)
    watch = threading.Timer(_MEETING_S, _give_up, (talk, say))
    watch.daemon = True
    watch.start()
    try:
        for _ in range(_rounds(talk)):
            for size in _SIZES:
                talk.swap(bytes(size))
        _shut(doors, say)
        known = _connections(talk, key)
        _expect_nobody_else(talk, doors, known)
        talk.swap(b"")
    finally:
        watch.cancel()


class _Talk:
    """Every rank says something to every other; `missing` are those of whom nothing has come yet."""

    def __init__(self, mpi: Any) -> None:
        self._world = mpi.COMM_WORLD
        self._status = mpi.Status()
        self.rank: int = self._world.rank
        self.missing: set[int] = set()

    def swap(self, data: bytes) -> list[bytes]:
        """What each rank says, by rank, when this one says `data`."""
        found: dict[int, bytearray] = {self.rank: bytearray(data)}
        self.missing = {rank for rank in range(self._world.size) if rank != self.rank}
        # The lower rank of two begins, so that they do not connect to each other at once.
        moving = [self._send(data, rank) for rank in self.missing if rank > self.rank]
        while self.missing or moving:
            arrived = [rank for rank in self.missing if self._receive(rank, found, moving)]
            moving += [self._send(data, rank) for rank in arrived if rank < self.rank]
            self.missing.difference_update(arrived)
            waiting = [request for request in moving if not request.Test()]
            if not arrived and len(waiting) == len(moving):
                time.sleep(_PAUSE_S)
            moving = waiting
        return [bytes(found[rank]) for rank in sorted(found)]

    def go_on(self) -> None:
        """Let MPI look at its connections, and wait a little."""
        self._world.Iprobe(tag=_TAG)
        time.sleep(_PAUSE_S)

    def _send(self, data: bytes, rank: int) -> Any:
        return self._world.Isend(data, dest=rank, tag=_TAG)

    def _receive(self, rank: int, found: dict[int, bytearray], moving: list[Any]) -> bool:
        message = self._world.Improbe(source=rank, tag=_TAG, status=self._status)
        if message is None:
            return False
        size = self._status.Get_count()
        if size > _MOST_BYTES:
            raise EngineError(f"rank {rank} of the MPI world sent {size} bytes to greet with; that is no rank of ours")
        found[rank] = bytearray(size)
        moving.append(message.Irecv(found[rank]))
        return True


def _rounds(talk: _Talk) -> int:
    """As many as the rank with most networks has of them; who says something else is nobody of ours."""
    said = talk.swap(str(len(socket.if_nameindex())).encode())
    return max(_ROUNDS, *(int(each) for each in said if each.isdigit() and int(each) <= _MOST_ROUNDS))


def _shut(doors: Sequence[TcpSocket], say: Callable[[str], None]) -> None:
    mine = held(os.getpid())
    try:
        for door in doors:
            with socket.socket(fileno=os.dup(mine[door.inode])) as listener:
                make_deaf(listener)
    except OSError as error:
        say(f"the ports of MPI cannot be closed for other users ({error.strerror}): see docs/security.md")


def _connections(talk: _Talk, key: bytes) -> set[tuple[str, str]]:
    """The local and the remote end of each connection that a rank has, as its other end sees them."""
    nonces = talk.swap(secrets.token_bytes(_NONCE))
    mine = held(os.getpid())
    ends = [(each.local, each.remote) for each in tcp_sockets() if each.state == ESTABLISHED and each.inode in mine]
    record = json.dumps(ends).encode()
    known: set[tuple[str, str]] = set()
    for rank, said in enumerate(talk.swap(_mac(key, talk.rank, nonces, record) + record)):
        if not hmac.compare_digest(said[:_MAC], _mac(key, rank, nonces, said[_MAC:])):
            raise EngineError(f"what says to be rank {rank} of the MPI world does not have the key of the run")
        known |= {(remote, local) for local, remote in json.loads(said[_MAC:])}
    return known


def _mac(key: bytes, rank: int, nonces: Sequence[bytes], record: bytes) -> bytes:
    words = json.dumps(["meeting", rank, [nonce.hex() for nonce in nonces]]).encode()
    return hmac.digest(key, words + record, "sha256")


def _expect_nobody_else(talk: _Talk, doors: Sequence[TcpSocket], known: set[tuple[str, str]]) -> None:
    end = time.monotonic() + _CLOSING_S
    strangers = _strangers(doors, known)
    while strangers:
        if time.monotonic() > end:
            raise EngineError(
                f"{', '.join(strangers)} is connected to MPI of rank {talk.rank} and is no rank of this run: somebody"
                " else came while it started; start it again, and see docs/security.md"
            )
        talk.go_on()
        strangers = _strangers(doors, known)


def _strangers(doors: Sequence[TcpSocket], known: set[tuple[str, str]]) -> list[str]:
    """Who has come through a door, also as far as MPI has not seen it yet, and is no rank."""
    places, mine = {_place(door) for door in doors}, held(os.getpid())
    return sorted(
        each.caller
        for each in tcp_sockets()
        if each.state in (ESTABLISHED, CLOSING)
        and _place(each) in places
        and (each.inode in mine or each.inode == _UNSEEN)
        and (each.local, each.remote) not in known
    )


def _place(end: TcpSocket) -> tuple[int, str]:
    """The version of IP, by the length of its addresses, and the port: another program may have that of the other."""
    address, port = end.local.split(":")
    return len(address), port


def _give_up(talk: _Talk, say: Callable[[str], None]) -> None:
    ranks = ", ".join(map(str, sorted(talk.missing))) or "all"
    say(
        f"MPI ranks {ranks} did not answer rank {talk.rank} within {_MEETING_S:g} s of the start: the network between"
        " the nodes does not let them, or somebody else holds up their ports, see docs/security.md"
    )
    os._exit(1)
