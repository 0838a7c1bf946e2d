"""Waiting for a port that a server has left behind, with real connections."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from trtdist.supervisor import free_port

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
END_S = 200.0
SERVER = """
import socket, sys
bound = socket.socket()
bound.bind(("127.0.0.1", int(sys.argv[1])))
print("bound", flush=True)
"""


@pytest.fixture
def left() -> Iterator[int]:
    """A port whose server has ended first, with a connection open: nobody can bind it without SO_REUSEADDR."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = int(listener.getsockname()[1])
        with socket.create_connection((HOST, port)) as client:
            listener.accept()[0].close()
            listener.close()
            assert client.recv(1) == b""
    yield port


def start(port: int, *program: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-S", "-m", free_port.__name__, f"{HOST}:{port}", *program]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, env=environ, capture_output=True, text=True, check=False, timeout=END_S)


def can_be_bound(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind((HOST, port))
        except OSError:
            return False
    return True


@pytest.mark.long
def test_the_past_of_a_port_is_waited_for(left: int) -> None:
    """A minute, which is the kernel's."""
    assert not can_be_bound(left)
    done = start(left, sys.executable, "-c", SERVER, str(left))
    assert (done.returncode, done.stdout, done.stderr) == (0, "bound\n", "")


def test_no_longer_than_a_past_can_last(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_port, "LONGEST_S", 0.3)
    free_port.wait_for(HOST, left)
    assert not can_be_bound(left)


def test_a_port_that_somebody_listens_on_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other than for a moment: it may be a server that is about to be gone."""
    monkeypatch.setattr(free_port, "LISTENED_S", 0.3)
    with closing(socket.create_server((HOST, 0))) as there:
        port = int(there.getsockname()[1])
        free_port.wait_for(HOST, port)
        assert not can_be_bound(port)
    there = socket.create_server((HOST, 0))
    port = int(there.getsockname()[1])
    monkeypatch.setattr(free_port, "LISTENED_S", END_S)
    closing_soon = threading.Timer(0.3, there.close)
    closing_soon.start()
    free_port.wait_for(HOST, port)
    assert can_be_bound(port)
    closing_soon.join()


def test_a_free_port_is_not_waited_for_and_arguments_arrive() -> None:
    with closing(socket.create_server((HOST, 0))) as there:
        port = int(there.getsockname()[1])
    done = start(port, "printf", "%s|", "a b", "", "$c")
    assert (done.returncode, done.stdout) == (0, "a b||$c|")


def test_a_program_that_is_not_there() -> None:
    done = start(0, "no-such-program")
    assert (done.returncode, done.stderr) == (127, "trtdist: cannot start no-such-program: No such file or directory\n")
