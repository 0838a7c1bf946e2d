"""tensorrt_llm/serve/disagg_auto_scaling.py (00184339) and cluster_storage.py (057d4a79): servers in etcd.

It is spoken to without TLS or password. The real client is `etcd-sdk-python`; this one uses etcd's JSON gateway.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import time
import urllib.request
from urllib.parse import urlparse

from tensorrt_llm.logger import logger

_KEYS = ("cluster_uri", "cluster_name", "minimal_instances", "heartbeat_interval_sec", "inactive_timeout_sec")
_ROLES = ("context_servers", "generation_servers")
_LOOK_S = 0.1


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Cluster:
    """One cluster in etcd."""

    def __init__(self, config: dict) -> None:
        for key in config:
            if key not in _KEYS:
                raise KeyError(f"Key {key} not found in DisaggClusterConfig")
        for key in config.get("minimal_instances") or {}:
            if key not in _ROLES:
                raise KeyError(f"Key {key} not found in MinimalInstances")
        uri = urlparse(config["cluster_uri"].split(",")[0])
        if uri.scheme != "etcd":
            raise ValueError(f"Invalid cluster storage URI: {config['cluster_uri']}")
        logger.info(f"Connecting to {config['cluster_uri']}")
        self._url = f"http://{uri.netloc}/v3"
        self._prefix = f"/trtllm-disagg/{config.get('cluster_name', '')}/workers"
        self._least = {**dict.fromkeys(_ROLES, 1), **config.get("minimal_instances", {})}
        self._key = ""
        self._beat, self._timeout = config.get("heartbeat_interval_sec", 5), config.get("inactive_timeout_sec", 10)

    def _post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(f"{self._url}/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    async def register(self, role: str, host: str, port: int) -> None:
        """Put a server there with a lease, and keep that alive."""
        name = f"{role}-{host}:{port}-{int(time.time() * 1000)}-{os.getpid()}-{random.randint(0, 1000):03}"
        lease = (await asyncio.to_thread(self._post, "lease/grant", {"TTL": self._timeout}))["ID"]
        info = {"worker_id": name, "host": host, "port": port, "role": 0 if role == "CONTEXT" else 1}
        self._key = f"{self._prefix}/{name}"
        put = {"key": _b64(self._key), "value": _b64(json.dumps(info)), "lease": lease}
        await asyncio.to_thread(self._post, "kv/put", put)
        logger.info(f"Worker {name} registration successful")
        while True:
            await asyncio.sleep(self._beat)
            await asyncio.to_thread(self._post, "lease/keepalive", {"ID": lease})

    async def deregister(self) -> None:
        """Be no longer there: `lifespan` of openai_server.py does it at the end of a server that was told to end."""
        if self._key:
            await asyncio.to_thread(self._post, "kv/deleterange", {"key": _b64(self._key)})

    async def watch(self, contexts: list[str], generations: list[str]) -> None:
        """Keep the lists as etcd has them."""
        ask = {"key": _b64(self._prefix), "range_end": _b64(self._prefix[:-1] + chr(ord(self._prefix[-1]) + 1))}
        while True:
            found = (await asyncio.to_thread(self._post, "kv/range", ask)).get("kvs", [])
            infos = [json.loads(base64.b64decode(item["value"])) for item in found]
            for role, urls in enumerate((contexts, generations)):
                urls[:] = sorted(f"{info['host']}:{info['port']}" for info in infos if info["role"] == role)
            await asyncio.sleep(_LOOK_S)

    def ready(self, contexts: list[str], generations: list[str]) -> bool:
        """Whether as many are there as the configuration wants."""
        return len(contexts) >= self._least["context_servers"] and len(generations) >= self._least["generation_servers"]
