"""The head services of a run, for the supervisor, on whose machine they run. Standard library, Python 3.9."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection

from trtdist.errors import TrtdistError
from trtdist.rundir import RunDir
from trtdist.services.answering import answers
from trtdist.services.envfile import read_env_or_nothing
from trtdist.services.health import probe
from trtdist.services.heirs import tell_heir
from trtdist.services.registered import registered
from trtdist.services.renewal import Renewal, renew
from trtdist.services.withdrawal import withdraw
from trtdist.supervisor.ports import PortClaims, taken
from trtdist.supervisor.resolve import external_services, resolve, service_ports

__all__ = ["LocalHead"]


class LocalHead:
    """Finds and probes NATS and etcd; holds the claims on their ports until they listen."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._claims = PortClaims()
        self._env: dict[str, str] = {}

    async def resolve(self, service: str) -> None:
        """Write resolved.env. TrtdistError when something is not found, or an external service does not answer."""
        # Looking at the nodes of a job takes seconds in which signals and requests must be heard.
        self._env = await asyncio.to_thread(resolve, self._run, os.environ, service, self._claims)
        for name in external_services(self._env):
            health = await probe(name, self._env)
            if not health.healthy:
                raise TrtdistError(f"services.{name}.external {health.url} {health.detail}: start or correct it")

    async def healthy(self, service: str) -> str | None:
        """The URL of a service that answers and names this run, else None."""
        health = await probe(service, self._env)
        if not health.healthy:
            return None
        self._claims.release(service_ports(service, self._env))
        return health.url

    async def registered(self) -> frozenset[str] | None:
        """The names of all that is registered in etcd, None when that cannot be told."""
        return await registered(self._env)

    async def front_answers(self) -> bool:
        """Whether it says anything."""
        return await answers(self._env["TRTDIST_HTTP_URL"])

    async def withdraw(self, servers: Collection[str]) -> None:
        """Revoke the leases of what is registered under these names, as far as etcd answers."""
        await withdraw(self._env, servers)

    async def hand_over(self, heir: RunDir) -> bool:
        """Put it where requesters look for servers."""
        return await tell_heir(self._env, read_env_or_nothing(heir.resolved_env))

    async def renew(self) -> Renewal | None:
        """In a thread, since a program does it."""
        return await asyncio.to_thread(renew, self._run)

    def port_taken(self, service: str) -> bool:
        """Whether somebody listens on a port that the service was given."""
        return any(taken(self._env["TRTDIST_HEAD_ADDRESS"], port) for port in service_ports(service, self._env))
