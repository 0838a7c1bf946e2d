"""How many requests a component of a run has open, as it tells itself."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from trtdist.serving.nats_connection import connection
from trtdist.serving.run_config import RunConfig
from trtdist.serving.slug import service_slug

__all__ = ["open_requests"]


def open_requests(run: Path, component: str) -> int:
    """The requests that one member of a component in a run directory has open; it must serve."""
    return asyncio.run(_open_requests(RunConfig.load(run), component))


async def _open_requests(config: RunConfig, component: str) -> int:
    subject = f"$SRV.STATS.{service_slug(config.namespace, component)}"
    login = config.nats_url, config.nats_user, config.nats_password
    async with connection(*login, "faults", tls=config.nats_tls) as client:
        told = json.loads((await client.request(subject, b"", 30)).data)
    return int(told["endpoints"][0]["data"]["request_active_slots"])
