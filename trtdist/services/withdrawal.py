"""Takes servers that died off etcd, by whoever saw them die: before their leases run out. Standard library, Python 3.9.

Revoking the lease deletes the key, tells every watcher at once, and makes a server that still runs leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress

from trtdist.services.http import Unwell, ask
from trtdist.services.registered import FAILURES, endpoints, entries
from trtdist.services.tls import etcd_context

__all__ = ["withdraw"]

_SECONDS = 1.5


async def withdraw(env: Mapping[str, str], servers: Collection[str]) -> bool:
    """Revoke the leases of all that is registered under these names of the plan; whether etcd did so in time.

    `env` is what `resolved.env` says; the members of an etcd are asked in turn until one answers. Leases that are left
    run out by themselves.
    """
    urls = endpoints(env)
    for url in urls:
        with suppress(*FAILURES):
            await asyncio.wait_for(_withdraw(url, env, servers), _SECONDS / len(urls))
            return True
    return False


async def _withdraw(url: str, env: Mapping[str, str], servers: Collection[str]) -> None:
    tls = etcd_context(env)
    for name, lease in await entries(url, env, tls):
        if name in servers and lease:
            with suppress(Unwell):  # one that has gone meanwhile keeps no other
                await ask(url, "POST", "/v3/lease/revoke", tls, {"ID": lease})
