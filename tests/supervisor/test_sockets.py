"""Sockets that are made deaf, by root and by whoever has no privileges."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.strangers import let_in
from trtdist.sockets import ESTABLISHED, LISTENING, TcpSocket, held, make_deaf, tcp_sockets


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom the kernel grants nothing more, as far as the tests may become one."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def listening(family: socket.AddressFamily, address: str) -> socket.socket:
    return socket.create_server((address, 0), family=family, dualstack_ipv6=family is socket.AF_INET6)


@pytest.mark.parametrize("privileges", [contextlib.nullcontext, unprivileged])
@pytest.mark.parametrize(
    ("family", "address", "reached"),
    [
        (socket.AF_INET, "0.0.0.0", ["127.0.0.1"]),
        (socket.AF_INET, "127.0.0.1", ["127.0.0.1"]),
        (socket.AF_INET6, "::", ["127.0.0.1", "::1"]),
    ],
)
def test_nobody_gets_through_and_who_is_there_stays(
    privileges: type[contextlib.AbstractContextManager[None]],
    family: socket.AddressFamily,
    address: str,
    reached: list[str],
) -> None:
    with listening(family, address) as door, contextlib.ExitStack() as stack:
        port = door.getsockname()[1]
        pairs = []
        for host in reached:
            assert let_in(host, port, 30)
            door.accept()[0].close()
            near = stack.enter_context(socket.create_connection((host, port), timeout=30))
            pairs.append((near, stack.enter_context(door.accept()[0])))
        with privileges():
            make_deaf(door)
        assert [host for host in reached if let_in(host, port)] == []
        for near, far in pairs:
            near.sendall(b"still here")
            far.settimeout(30)
            assert far.recv(10) == b"still here"


def test_the_sockets_of_a_process_and_who_called() -> None:
    with listening(socket.AF_INET, "127.0.0.1") as door, listening(socket.AF_INET6, "::") as both:
        near = [
            socket.create_connection((host, each.getsockname()[1]))
            for host, each in (("127.0.0.1", door), ("::1", both))
        ]
        far = [door.accept()[0], both.accept()[0]]
        mine = held(os.getpid())
        found = {mine[each.inode]: each for each in tcp_sockets() if each.inode in mine}
        assert found[door.fileno()].state == found[both.fileno()].state == LISTENING
        for caller, called in zip(near, far, strict=True):
            here, there = found[caller.fileno()], found[called.fileno()]
            assert (here.local, here.remote) == (there.remote, there.local)
            assert there.state == ESTABLISHED and there.uid == os.getuid()
            host, port = caller.getsockname()[:2]
            assert there.caller == f"{host} port {port}"
        for each in (*near, *far):
            each.close()


def test_a_socket_that_the_kernel_tells_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does while others come or go; a rank that was counted twice had the door shut before the other came."""
    row = "0100007F:98CE 0100007F:8861 01 0:0 00:0 0 7 0 99 1 0"
    monkeypatch.setattr(Path, "read_text", lambda path: f"  sl  local_address\n   0: {row}\n   1: {row}\n")
    in_each_table = TcpSocket("0100007F:98CE", "0100007F:8861", ESTABLISHED, 7, "99")
    assert list(tcp_sockets()) == [in_each_table, in_each_table]
