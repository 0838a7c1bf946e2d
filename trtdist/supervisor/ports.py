"""Free ports on an address, chosen so that runs that start at the same time get different ones. Python 3.9.

A port is claimed by a socket that is bound to it and does not listen. Another claim is refused by the kernel, whoever
makes it; a server is not, since it sets SO_REUSEADDR (as all servers written in Go do) and so has the claim. What the
claim cannot keep away is a foreign server that sets it too: then ours fails to bind, and another port is chosen.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from trtdist.errors import TrtdistError

__all__ = ["PortClaims", "candidates", "range_of", "taken"]

# Below the ports that systems hand out to outgoing connections, which come and go by the second, and below those that
# Kubernetes gives away (30000-32767).
_PREFERRED = range(20000, 30000)
_ALL = range(1024, 65536)
_LOCAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class PortClaims:
    """Ports that are claimed until `close`, or until the process ends."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def claim(self, address: str, count: int, ports: Sequence[int] | None = None) -> list[int]:
        """Claim `count` ports on an address, chosen at random from `ports`; TrtdistError when so many are not free."""
        choice = list(candidates() if ports is None else ports)
        random.SystemRandom().shuffle(choice)
        claimed: list[int] = []
        for port in choice:
            if len(claimed) == count:
                break
            if port not in self._sockets and self._take(address, port):
                claimed.append(port)
        if len(claimed) < count:
            self.release(claimed)
            remedy = "end what uses them" + ("" if ports is None else ", or widen network.port_range")
            raise TrtdistError(f"no {count} free ports on {address} among {len(choice)}: {remedy}")
        return claimed

    def _take(self, address: str, port: int) -> bool:
        holder = socket.socket(_family(address), socket.SOCK_STREAM)
        try:
            # Without SO_REUSEADDR at first, so that another claim counts as taken; then with it, for our server.
            holder.bind((address, port))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError as error:
            holder.close()
            if isinstance(error, PermissionError) or error.errno == errno.EADDRINUSE:
                return False
            raise TrtdistError(f"cannot use the address {address} of this machine: {error.strerror}") from error
        self._sockets[port] = holder
        return True

    def release(self, ports: Collection[int]) -> None:
        """Give ports back."""
        for port in ports:
            holder = self._sockets.pop(port, None)
            if holder is not None:
                holder.close()

    def close(self) -> None:
        """Give all ports back."""
        self.release(list(self._sockets))


def candidates() -> Sequence[int]:
    """The ports to choose from: outside of what this machine hands out to outgoing connections, if that leaves any."""
    try:
        low, high = map(int, _LOCAL_RANGE.read_text().split())
    except (OSError, ValueError):
        return _PREFERRED
    outside = [port for port in _PREFERRED if not low <= port <= high]
    return outside or [port for port in _ALL if not low <= port <= high] or _ALL


def range_of(values: Mapping[str, str]) -> Sequence[int] | None:
    """The ports of network.port_range, as given.env and resolved.env have it; None for any."""
    low, _, high = values.get("TRTDIST_PORT_RANGE", "").partition("-")
    return range(int(low), int(high) + 1) if low else None


def taken(address: str, port: int) -> bool:
    """Whether somebody listens on a port. It is tried as servers do, so that claims and closed connections count as
    free."""
    with socket.socket(_family(address), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        return False


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
