"""lib/runtime of ai-dynamo/dynamo: discovery in etcd, a login to NATS, and requests from one process to another.

The real ones speak gRPC with etcd and a binary protocol with each other; these use etcd's JSON gateway, and HTTP.
Environment: ETCD_ENDPOINTS (transports/etcd.rs 0f249f5e), NATS_SERVER and NATS_AUTH_* (transports/nats.rs 08207471),
DYN_NAMESPACE, DYN_TCP_RPC_HOST (utils/ip_resolver.rs), DYN_SYSTEM_* (docs/observability/health-checks.md).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sys
import urllib.request

import nats

TTL_S = 10


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def fail(text: str) -> None:
    """End as an error in the Rust runtime does."""
    print(f"ERROR dynamo_runtime: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


class DistributedRuntime:
    """Connections to etcd and NATS; without either a process does not come up."""

    def __init__(self) -> None:
        self.namespace = os.environ.get("DYN_NAMESPACE", "dynamo")
        self._url = os.environ.get("ETCD_ENDPOINTS", "http://localhost:2379").split(",")[0]
        if not self._url.startswith("http://"):
            fail(f"Unable to connect to etcd server at {self._url}. Check etcd server status")

    async def connect(self) -> None:
        """Log in to NATS, whose JetStream must be there."""
        server = os.environ.get("NATS_SERVER", "nats://localhost:4222")
        if not server.startswith("nats://"):
            fail("server must start with 'nats://'")
        login = {
            "user": os.environ.get("NATS_AUTH_USERNAME", "user"),
            "password": os.environ.get("NATS_AUTH_PASSWORD", "user"),
        }
        try:
            self._nats = await nats.connect(server, **login, allow_reconnect=False, connect_timeout=5)
            await self._nats.jetstream().account_info()
        except Exception as e:
            fail(f"Failed to connect to NATS: {e}")
        print("INFO dynamo_runtime: connected to etcd and NATS", flush=True)

    async def close(self) -> None:
        """Leave NATS."""
        await self._nats.close()

    def _post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(f"{self._url}/v3/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    async def register(self, component: str, value: dict) -> None:
        """Keep a key with the address of an instance alive: `v1/instances/{namespace}/{component}/{endpoint}/{id}`."""
        lease = (await asyncio.to_thread(self._post, "lease/grant", {"TTL": TTL_S}))["ID"]
        key = f"v1/instances/{self.namespace}/{component}/generate/{int(lease):x}"
        put = {"key": _b64(key), "value": _b64(json.dumps(value)), "lease": lease}
        await asyncio.to_thread(self._post, "kv/put", put)
        while True:
            await asyncio.sleep(TTL_S / 2)
            await asyncio.to_thread(self._post, "lease/keepalive", {"ID": lease})

    async def instances(self) -> dict[str, list[dict]]:
        """All instances of the namespace by component, in the order of their keys."""
        prefix = f"v1/instances/{self.namespace}/"
        ask = {"key": _b64(prefix), "range_end": _b64(prefix[:-1] + "0")}
        found: dict[str, list[dict]] = {}
        for item in (await asyncio.to_thread(self._post, "kv/range", ask)).get("kvs", []):
            component = base64.b64decode(item["key"]).decode().split("/")[3]
            found.setdefault(component, []).append(json.loads(base64.b64decode(item["value"])))
        return found


def bound(host: str, port: int) -> socket.socket:
    """A socket for a server."""
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((host, port))
    return one
