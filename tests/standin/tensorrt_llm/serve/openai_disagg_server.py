"""tensorrt_llm/serve/openai_disagg_server.py (01edceae) and openai_disagg_service.py: the router of a disaggregated
deployment."""

from __future__ import annotations

import asyncio
import itertools
import time

from tensorrt_llm.logger import logger
from tensorrt_llm.serve.http import HttpError, ask

_SAID_S, _LOOK_S = 3.0, 0.05


class OpenAIDisaggServer:
    """Takes turns over the servers of each role, or over what the cluster tells of them."""

    def __init__(self, servers, cluster, start_timeout: float) -> None:
        self.contexts, self.generations = servers
        self._cluster, self._start_timeout = cluster, start_timeout
        self._turns = itertools.count(), itertools.count()

    async def setup(self) -> None:
        """Wait for the servers; from then on nobody looks at them, unless there is a cluster."""
        if self._cluster is not None:
            logger.info("Starting disagg cluster manager")
            self._watching = asyncio.create_task(self._cluster.watch(self.contexts, self.generations))
            return
        until, said = time.monotonic() + self._start_timeout, 0.0
        while missing := [url for url in self.contexts + self.generations if not await _healthy(url)]:
            if time.monotonic() > said + _SAID_S:
                said = time.monotonic()
                context = [url for url in missing if url in self.contexts]
                generation = [url for url in missing if url in self.generations]
                logger.info(f"Waiting for servers, context: {context}, generation: {generation}")
            if time.monotonic() > until:
                raise TimeoutError("Timeout waiting for context and generation servers to be ready")
            await asyncio.sleep(_LOOK_S)
        logger.info("All servers are ready")

    async def handle(self, method: str, path: str, body: dict) -> tuple:
        """What a request is answered with."""
        if path == "/health":
            # `is_ready` of a router without a cluster is always true; 503 as in 01edceae.
            ready = self._cluster is None or self._cluster.ready(self.contexts, self.generations)
            return (200 if ready else 503), {}, None
        if path == "/cluster_info":
            lists = {"context": self.contexts, "generation": self.generations}
            return 200, {}, {"is_ready": bool(self.contexts and self.generations), "server_lists": lists}
        if method == "POST" and path in ("/v1/completions", "/v1/chat/completions"):
            return await self._route(path, body)
        raise HttpError(404, "Not Found")

    async def _route(self, path: str, body: dict) -> tuple:
        if not (self.contexts and self.generations):
            raise HttpError(500, "Cluster is not ready")
        context = self.contexts[next(self._turns[0]) % len(self.contexts)]
        generation = self.generations[next(self._turns[1]) % len(self.generations)]
        first = {**body, "stream": False, "max_tokens": 1, "disaggregated_params": {"request_type": "context_only"}}
        answer = await self._asked(context, path, first)
        choice = answer["choices"][0]
        # Generation is left out unless the context server's answer goes on (TensorRT-LLM 15027, 16691).
        if choice["finish_reason"] not in ("length", "not_finished"):
            return 200, {}, answer
        params = {**choice["disaggregated_params"], "request_type": "generation_only"}
        return 200, {}, await self._asked(generation, path, {**body, "disaggregated_params": params})

    async def _asked(self, url: str, path: str, body: dict):
        try:
            status, answer = await ask(url, "POST", path, body)
        except OSError as e:
            raise HttpError(500, f"Internal server error {e}") from None
        if status != 200:
            raise HttpError(500, f"Internal server error {answer}")
        return answer


async def _healthy(url: str) -> bool:
    try:
        status, _ = await ask(url, "GET", "/health")
    except (OSError, asyncio.IncompleteReadError):
        return False
    return status == 200
