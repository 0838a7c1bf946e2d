"""What is registered in the etcd of a run, for whoever has no client of its own. Standard library, Python 3.9."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from trtdist.errors import TrtdistError
from trtdist.services.http import Unwell, ask
from trtdist.services.tls import etcd_context

__all__ = ["FAILURES", "coded", "endpoints", "entries", "registered"]

_SECONDS = 1.0
FAILURES = (Unwell, TrtdistError, OSError, ValueError, KeyError, asyncio.TimeoutError, EOFError)
"""What a question to etcd may end with when it is not answered as it should be."""


async def registered(env: Mapping[str, str]) -> frozenset[str] | None:
    """The names in the plan of all that is registered; None when etcd does not answer within a second.

    `env` is what `resolved.env` says; the members of an etcd are asked in turn until one answers.
    """
    urls = endpoints(env)
    for url in urls:
        with suppress(*FAILURES):
            found = await asyncio.wait_for(entries(url, env, etcd_context(env)), _SECONDS / len(urls))
            return frozenset(name for name, _ in found)
    return None


def endpoints(env: Mapping[str, str]) -> list[str]:
    """The URLs of the members of etcd."""
    return [url for url in env.get("ETCD_ENDPOINTS", "").split(",") if url]


async def entries(url: str, env: Mapping[str, str], tls: ssl.SSLContext | None) -> list[tuple[str, str]]:
    """The name and the lease ("" for none) of each instance of the run."""
    prefix = f"{env['TRTDIST_RUN_ID']}/components/".encode()
    found = await ask(url, "POST", "/v3/kv/range", tls, {"key": coded(prefix), "range_end": coded(_after(prefix))})
    return list(_named(found))


def _named(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for item in found.get("kvs") or ():
        value = json.loads(base64.b64decode(item["value"]))
        if isinstance(value, dict) and isinstance(value.get("server"), str):
            yield value["server"], str(item.get("lease") or "")


def _after(prefix: bytes) -> bytes:
    """The end of the range of all keys with a prefix, which ends with no 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def coded(key: bytes) -> str:
    """As etcd's JSON gateway takes keys and values."""
    return base64.b64encode(key).decode()
