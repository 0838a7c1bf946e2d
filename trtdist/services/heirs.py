"""Tells the connected clients of a run, by its etcd, which run has taken over. Standard library, Python 3.9."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from trtdist.services.http import ask
from trtdist.services.registered import FAILURES, coded
from trtdist.services.tls import etcd_context

__all__ = ["HEIR", "tell_heir"]

HEIR = "heir"
"""The last word of the key that names the run that has taken over; the others below `components` are instances."""

_SECONDS = 2.0
# Whoever is connected hears of it at once, and commands read it in the folder of the run: this is for programs that
# come later to an etcd that outlives the run, which must not keep it for ever.
_KEPT_S = 7 * 86400


async def tell_heir(env: Mapping[str, str], heir: Mapping[str, str]) -> bool:
    """Name the run that has taken over, with its addresses, to all that watch this one; whether etcd did so in time.

    Both are what `resolved.env` of the runs says. False also for runs without a discovery service. The key ends with
    its lease, after a week.
    """
    try:
        await asyncio.wait_for(_put(env, heir), _SECONDS)
    except FAILURES:
        return False
    return True


async def _put(env: Mapping[str, str], heir: Mapping[str, str]) -> None:
    url = env["ETCD_ENDPOINTS"].split(",")[0]
    tls = etcd_context(env)
    value = {"run": heir["TRTDIST_RUN_ID"], "nats": heir["NATS_SERVER"], "etcd": heir["ETCD_ENDPOINTS"].split(",")}
    key = f"{env['TRTDIST_RUN_ID']}/components/{HEIR}"
    lease = (await ask(url, "POST", "/v3/lease/grant", tls, {"TTL": str(_KEPT_S)}))["ID"]
    asked = {"key": coded(key.encode()), "value": coded(json.dumps(value).encode()), "lease": str(lease)}
    await ask(url, "POST", "/v3/kv/put", tls, asked)
