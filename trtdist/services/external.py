"""Services that somebody else runs: their addresses as the programs of a run read them. Python 3.9."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from trtdist.errors import InputError
from trtdist.services.address import host_port

__all__ = ["ETCD_PORT", "NATS_PORT", "ExternalNats", "etcd_endpoints", "external_nats"]

NATS_PORT, ETCD_PORT = 4222, 2379


@dataclass(frozen=True)
class ExternalNats:
    """A NATS server: its address without credentials, and those, "" when it asks for none."""

    url: str
    user: str = field(repr=False)
    password: str = field(repr=False)


def external_nats(text: str) -> ExternalNats:
    """`nats://[USER:PASSWORD@]HOST[:PORT]` taken apart; InputError when there is anything else in it."""
    parts = urlsplit(text)
    if (parts.username or "") and parts.password is None:
        raise InputError(
            "services.nats.external has a user and no password: write it as nats://USER:PASSWORD@HOST:4222"
        )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return ExternalNats(_plain(parts, NATS_PORT, "services.nats.external"), user, password)


def etcd_endpoints(text: str) -> str:
    """`http://HOST[:PORT]`, several with commas, each with its port; InputError when there is anything else in one."""
    endpoints = []
    for address in text.split(","):
        parts = urlsplit(address.strip())
        if "@" in parts.netloc:
            raise InputError(
                "services.etcd.external has a user and password, which etcd's JSON gateway does not take: "
                "use an etcd without authentication, or let the run start its own"
            )
        endpoints.append(_plain(parts, ETCD_PORT, "services.etcd.external"))
    return ",".join(endpoints)


def _plain(parts: SplitResult, port: int, where: str) -> str:
    if parts.path.strip("/") or parts.query or parts.fragment or not parts.hostname:
        raise InputError(
            f"{where} is the address of a server, with nothing after its port: {parts.scheme}://HOST:{port}"
        )
    return f"{parts.scheme}://{host_port(parts.hostname, parts.port or port)}"
