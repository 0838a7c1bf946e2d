"""Takes servers that died off etcd, by whoever saw them die: before their leases run out. Standard library, Python 3.9.

Revoking the lease deletes the key, tells every watcher at once, and makes a server that still runs leave.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trtdist.errors import TrtdistError
from trtdist.rundir import RunDir
from trtdist.services.http import Unwell, ask
from trtdist.services.tls import own_context

__all__ = ["withdraw"]

_SECONDS = 1.5


async def withdraw(env: Mapping[str, str], servers: Collection[str]) -> bool:
    """Revoke the leases of all that is registered under these names of the plan; whether etcd did so in time.

    `env` is what `resolved.env` says; the members of an etcd are asked in turn until one answers. Leases that are left
    run out by themselves.
    """
    urls = [url for url in env.get("ETCD_ENDPOINTS", "").split(",") if url]
    for url in urls:
        with suppress(Unwell, TrtdistError, OSError, ValueError, KeyError, asyncio.TimeoutError, EOFError):
            await asyncio.wait_for(_withdraw(url, env, servers), _SECONDS / len(urls))
            return True
    return False


async def _withdraw(url: str, env: Mapping[str, str], servers: Collection[str]) -> None:
    tls = own_context(RunDir(Path(env.get("TRTDIST_RUN_DIR", ""))), env, "TRTDIST_ETCD_PORT")
    prefix = f"{env['TRTDIST_RUN_ID']}/components/".encode()
    found = await ask(url, "POST", "/v3/kv/range", tls, {"key": _coded(prefix), "range_end": _coded(_after(prefix))})
    for lease in _leases(found, servers):
        with suppress(Unwell):  # one that has gone meanwhile keeps no other
            await ask(url, "POST", "/v3/lease/revoke", tls, {"ID": lease})


def _leases(found: Mapping[str, Any], servers: Collection[str]) -> Iterator[str]:
    for item in found.get("kvs") or ():
        value = json.loads(base64.b64decode(item["value"]))
        if isinstance(value, dict) and value.get("server") in servers and item.get("lease"):
            yield str(item["lease"])


def _after(prefix: bytes) -> bytes:
    """The end of the range of all keys with a prefix, which ends with no 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _coded(key: bytes) -> str:
    return base64.b64encode(key).decode()
