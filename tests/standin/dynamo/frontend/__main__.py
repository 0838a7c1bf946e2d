"""`python3 -m dynamo.frontend`: HTTP and the routers. main.py (0179043a), frontend_args.py (0243c51b)."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os

from dynamo.runtime import DistributedRuntime, bound
from tensorrt_llm.serve.http import HttpError, ask, serve, until_told

_MODES = ["round-robin", "random", "power-of-two", "kv", "direct", "least-loaded", "device-aware-weighted"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dynamo.frontend")
    parser.add_argument("--http-host", default=os.environ.get("DYN_HTTP_HOST", "0.0.0.0"))
    parser.add_argument("--http-port", type=int, default=int(os.environ.get("DYN_HTTP_PORT", "8000")))
    parser.add_argument("--router-mode", choices=_MODES, default="round-robin")
    parser.add_argument("--enforce-disagg", action="store_true")
    return parser.parse_args()


class _Frontend:
    """Serves the models of which workers are registered."""

    def __init__(self, runtime: DistributedRuntime, enforce: bool) -> None:
        self._runtime, self._enforce = runtime, enforce
        self._turns = itertools.count(), itertools.count()

    async def handle(self, method: str, path: str, body: dict) -> tuple:
        workers = await self._runtime.instances()
        decoders = workers.get("tensorrt_llm", [])
        if path in ("/health", "/live"):
            return 200, {}, {"status": "healthy", "instances": [one for each in workers.values() for one in each]}
        if path == "/v1/models":
            names = sorted({one["model"] for one in decoders})
            return 200, {}, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}
        if method != "POST" or path not in ("/v1/completions", "/v1/chat/completions"):
            raise HttpError(404, "Not Found")
        if body.get("model") not in {one["model"] for one in decoders}:
            raise HttpError(404, f"Model not found: {body.get('model')}")
        return await self._route(path, body, workers.get("prefill", []), decoders)

    async def _route(self, path: str, body: dict, prefills: list[dict], decoders: list[dict]) -> tuple:
        if not prefills and self._enforce:
            raise HttpError(503, "Prefill router not activated")
        if prefills:
            one = prefills[next(self._turns[0]) % len(prefills)]
            first = {**body, "stream": False, "max_tokens": 1, "disaggregated_params": {"request_type": "context_only"}}
            answer = await self._asked(one["address"], path, first)
            params = {**answer["choices"][0]["disaggregated_params"], "request_type": "generation_only"}
            body = {**body, "disaggregated_params": params}
        one = decoders[next(self._turns[1]) % len(decoders)]
        return 200, {}, await self._asked(one["address"], path, body)

    async def _asked(self, address: str, path: str, body: dict):
        try:
            status, answer = await ask(address, "POST", path, body)
        except OSError as e:
            raise HttpError(503, f"no responders: {e}") from None
        if status != 200:
            raise HttpError(status, str(answer))
        return answer


async def _work(given: argparse.Namespace) -> None:
    runtime = DistributedRuntime()
    await runtime.connect()
    await serve(bound(given.http_host, given.http_port), _Frontend(runtime, given.enforce_disagg).handle)
    await until_told()
    await runtime.close()


if __name__ == "__main__":
    asyncio.run(_work(_arguments()))
