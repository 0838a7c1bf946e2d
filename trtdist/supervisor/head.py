"""The seam between the supervisor and the head services: ports, health, certificates. Standard library, Python
3.9."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from trtdist.rundir import RunDir
from trtdist.services.renewal import Renewal

__all__ = ["Head"]


class Head(Protocol):
    """What the supervisor asks about NATS and etcd; `service` is the name of a step, `nats` or `etcd`."""

    async def resolve(self, service: str) -> None:
        """Find addresses and ports, all ("") or again those of one service. TrtdistError when that is impossible."""
        ...

    async def healthy(self, service: str) -> str | None:
        """The URL of a service that answers and is ours, else None; answers within a second."""
        ...

    async def registered(self) -> frozenset[str] | None:
        """The names of all that has its place in etcd; None when etcd does not say so within a second."""
        ...

    async def front_answers(self) -> bool:
        """Whether the HTTP front end answers within a second."""
        ...

    async def withdraw(self, servers: Collection[str]) -> None:
        """Have nobody find these servers any more, as far as etcd answers within a second or two."""
        ...

    async def hand_over(self, heir: RunDir) -> bool:
        """Tell connected clients of the run that has taken over; whether etcd could be told within a second or two."""
        ...

    async def renew(self) -> Renewal | None:
        """Renew the certificates of the run if that is due; None when it has none. NotRenewedError when they cannot be
        renewed."""
        ...

    def port_taken(self, service: str) -> bool:
        """Whether a port that the service was given is in other hands."""
        ...
