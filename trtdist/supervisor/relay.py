"""`python -I -S relay.py HOST PORT`: carries one connection between a step's standard input and output and a port.

Run on a node that reaches the port, for somebody who reaches only Slurm. Slurm passes on what a task prints when a line
is complete, so what comes from the port is printed as lines of base64; what goes there arrives as it is. The first line
is `connected`, or `failed REASON`. Standard library, Python 3.9; imports nothing of ours.
"""

from __future__ import annotations

import base64
import os
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

__all__ = ["CONNECTED", "FAILED", "main"]

CONNECTED, FAILED = "connected", "failed"
# A multiple of 3, so that no line but the last is padded.
_CHUNK = 48 * 1024
_CONNECT_S = 5.0


def main(arguments: Sequence[str]) -> int:
    """Carry one connection to its end; returns the exit code."""
    host, port = arguments
    try:
        connection = socket.create_connection((host, int(port)), timeout=_CONNECT_S)
    except OSError as error:
        _say(f"{FAILED} {error.strerror or error}".encode())
        return 1
    with connection:
        connection.settimeout(None)
        _say(CONNECTED.encode())
        # A thread that cannot keep the program alive: once the port has closed there is nobody to send to.
        threading.Thread(target=_send, args=(connection,), daemon=True).start()
        _receive(connection)
    sys.stdout.flush()
    # Without waiting for the thread, which may be reading.
    os._exit(0)


def _send(connection: socket.socket) -> None:
    with suppress(OSError):
        while True:
            data = os.read(0, _CHUNK)
            if not data:
                break
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def _receive(connection: socket.socket) -> None:
    with suppress(OSError):
        while True:
            data = connection.recv(_CHUNK)
            if not data:
                break
            _say(base64.b64encode(data))


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
