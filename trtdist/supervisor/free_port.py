"""`python -S -m trtdist.supervisor.free_port HOST:PORT PROGRAM [ARG ...]`: becomes a program once its port is free.

A server that was killed leaves connections behind, and for up to two minutes its port cannot be bound without
SO_REUSEADDR, as `trtllm-serve` does it (tensorrt_llm/commands/serve.py 00209af1): started again at once, it would fail
of its own past.
A port on which somebody else listens is not waited for; the program says best what is wrong then. Standard library,
Python 3.9.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time

__all__ = ["listened_on", "main", "wait_for"]

# FIN_WAIT2 of connections without owner, then TIME_WAIT: tcp(7), tcp_fin_timeout; include/net/tcp.h, TCP_TIMEWAIT_LEN.
LONGEST_S, LOOK_S = 125.0, 0.2
# A server that was killed a moment ago may listen for another one.
LISTENED_S = 5.0
_LISTENING = "0A"  # proc_net(5), tcp_states.h


def wait_for(host: str, port: int) -> None:
    """Return once a port can be bound, somebody listens on it, or no connection can be left of its past."""
    begun = time.monotonic()
    while _in_use(host, port):
        waited = time.monotonic() - begun
        if waited > LONGEST_S or (waited > LISTENED_S and listened_on(port)):
            return
        time.sleep(LOOK_S)


def listened_on(port: int) -> bool:
    """Whether somebody listens on an IPv4 port of this machine."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file]
    return any(row[1].endswith(f":{port:04X}") and row[3] == _LISTENING for row in rows[1:])


def _in_use(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tried:
        try:
            tried.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def main(argv: list[str]) -> int:
    """Become the program that the arguments name; returns an exit code only when that is impossible."""
    host, _, port = argv[0].rpartition(":")
    wait_for(host, int(port))
    try:
        os.execvp(argv[1], argv[1:])
    except OSError as error:
        print(f"trtdist: cannot start {argv[1]}: {error.strerror}", file=sys.stderr, flush=True)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
