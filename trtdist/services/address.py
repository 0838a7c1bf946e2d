"""How an address is written in URLs and in the configurations of servers. Standard library, Python 3.9."""

from __future__ import annotations

__all__ = ["host_port"]


def host_port(host: str, port: int | str) -> str:
    """`HOST:PORT`, with the brackets that IPv6 addresses need."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
