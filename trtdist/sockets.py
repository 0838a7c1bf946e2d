"""Which TCP sockets there are, which of them a process has, and how one that listens is made deaf. Linux. Standard
library, Python 3.9.

A deaf socket drops every packet that comes to it: whoever wants to connect waits in vain, and connections that are
there go on. Every user may do that to sockets of their own.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CLOSING", "ESTABLISHED", "LISTENING", "TcpSocket", "held", "make_deaf", "tcp_sockets"]

# proc_net_tcp(5); a socket that is closing has been closed by the other side alone.
LISTENING, ESTABLISHED, CLOSING = "0A", "01", "08"
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_RETURN = 0x06  # BPF_RET | BPF_K: how many bytes of a packet to keep, none

# linux/tcp.h; a tcp_md5sig is an address, flags, the length of its prefix, the length of a key, a device, and the key.
_TCP_MD5SIG_EXT, _WITH_PREFIX, _ADDRESS_BYTES, _KEY_BYTES = 32, 1, 128, 80
# What follows family and port of an address of which no bit counts; a socket of IPv6 may also have callers of IPv4.
_ANYBODY = {socket.AF_INET: (b"",), socket.AF_INET6: (b"", bytes(14) + b"\xff\xff")}


@dataclass(frozen=True)
class TcpSocket:
    """A socket of this network; `local` and `remote` are address and port in the kernel's digits."""

    local: str
    remote: str
    state: str
    uid: int
    inode: str

    @property
    def caller(self) -> str:
        """Address and port of the other side, as people write them."""
        address, port = self.remote.split(":")
        words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
        return f"{ipaddress.ip_address(struct.pack(f'={len(words)}I', *words))} port {int(port, 16)}"


def tcp_sockets() -> Iterator[TcpSocket]:
    """All of them, whoever has them, each once."""
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # a kernel without IPv6
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            # The kernel tells some twice when others come or go while they are read.
            yield from dict.fromkeys(map(_socket, lines))


def _socket(line: str) -> TcpSocket:
    words = line.split()
    return TcpSocket(words[1], words[2], words[3], int(words[7]), words[9])


def held(pid: int) -> dict[str, int]:
    """The descriptor of each socket of a process, by its inode; OSError when nobody may see them."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):  # closed meanwhile
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                found[target[len("socket:[") : -1]] = int(name)
    return found


def make_deaf(listener: socket.socket) -> None:
    """Drop every packet that comes to a listening socket; OSError when that is not possible."""
    rule = ctypes.create_string_buffer(struct.pack("@HBBI", _RETURN, 0, 0, 0))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(rule)))
    except PermissionError:
        # Some kernels (6.18.44) let root alone filter TCP, and everybody ask for signatures: by a key that nobody has.
        for address in _ANYBODY[listener.family]:
            listener.setsockopt(socket.IPPROTO_TCP, _TCP_MD5SIG_EXT, _unknown_key(listener.family, address))


def _unknown_key(family: int, address: bytes) -> bytes:
    callers = struct.pack("@HH", family, 0) + address
    key = struct.pack("@BBHi", _WITH_PREFIX, 0, _KEY_BYTES, 0) + secrets.token_bytes(_KEY_BYTES)
    return callers.ljust(_ADDRESS_BYTES, b"\0") + key
