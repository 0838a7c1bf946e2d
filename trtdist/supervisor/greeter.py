"""Who answers those that want to know whether they reach this machine. Standard library, Python 3.9."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from contextlib import suppress

__all__ = ["Greeter"]


class Greeter:
    """Tells whoever connects a secret word and the time, so that nodes know that they reached this one."""

    def __init__(self, listener: socket.socket) -> None:
        self.nonce = secrets.token_hex(8)
        self._listener = listener
        self._thread = threading.Thread(target=self._greet, daemon=True)

    def __enter__(self) -> Greeter:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _greet(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            with connection, suppress(OSError):
                connection.sendall(f"{self.nonce} {time.time():.6f}\n".encode())
