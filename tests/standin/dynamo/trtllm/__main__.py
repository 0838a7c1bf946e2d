"""`python3 -m dynamo.trtllm`: a worker. main.py (00810a7b), backend_args.py (0a6a115c), engine_monitor.py."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys

import torch
import yaml
from dynamo.runtime import DistributedRuntime, bound
from tensorrt_llm.serve.engine import engine
from tensorrt_llm.serve.http import HttpError, serve, until_told
from tensorrt_llm.serve.openai_server import OpenAIServer

_COMPONENTS = {"prefill": "prefill", "decode": "tensorrt_llm", "agg": "tensorrt_llm"}
_LOOK_S = 2.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dynamo.trtllm")
    parser.add_argument("--model", "--model-path", dest="model", default="TinyLlama/TinyLlama-1.1B-Chat-v1.0")
    parser.add_argument("--served-model-name")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--pipeline-parallel-size", type=int, default=1)
    parser.add_argument("--extra-engine-args", default="")
    parser.add_argument("--publish-kv-events", "--publish-events-and-metrics", action="store_true")
    parser.add_argument("--disaggregation-mode", choices=["agg", "pd", "prefill", "decode", "encode"], default="agg")
    return parser.parse_args()


class _SystemServer:
    """DYN_SYSTEM_PORT: 503 until all of DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS are served."""

    def __init__(self) -> None:
        self.wanted = set(json.loads(os.environ.get("DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS", "[]")))
        self.served: set[str] = set()

    async def handle(self, method: str, path: str, body: dict) -> tuple:
        if path not in ("/health", "/live"):
            raise HttpError(404, "Route not found")
        ready = self.wanted <= self.served
        return (200 if ready else 503), {}, {"status": "ready" if ready else "notready"}


async def _work(given: argparse.Namespace) -> None:
    if torch.cuda.device_count() == 0:
        raise ValueError("No GPU devices found on the node")
    args = {"model": given.model, "tensor_parallel_size": 1, "pipeline_parallel_size": 1, "backend": "pytorch"}
    if given.extra_engine_args:
        with open(given.extra_engine_args) as file:
            args |= yaml.safe_load(file) or {}
    system = _SystemServer()
    if os.environ.get("DYN_SYSTEM_ENABLED") == "true" or int(os.environ.get("DYN_SYSTEM_PORT", "-1")) >= 0:
        port = int(os.environ.get("DYN_SYSTEM_PORT", "0"))
        await serve(bound(os.environ.get("DYN_SYSTEM_HOST", "0.0.0.0"), port), system.handle)
    runtime = DistributedRuntime()
    await runtime.connect()
    server = OpenAIServer(engine(), given.served_model_name or given.model)
    await server.engine.start(args)
    server.starting = False
    here = bound(os.environ.get("DYN_TCP_RPC_HOST", "127.0.0.1"), 0)
    address = "{}:{}".format(*here.getsockname()[:2])
    await serve(here, server.handle)
    value = {"address": address, "model": server.model}
    registered = asyncio.create_task(runtime.register(_COMPONENTS[given.disaggregation_mode], value))
    system.served.add("generate")
    monitor = asyncio.create_task(_monitor(server))
    await until_told()
    for task in (registered, monitor):
        task.cancel()
    await runtime.close()
    await server.engine.shutdown()


async def _monitor(server: OpenAIServer) -> None:
    """engine_monitor.py: a worker whose engine has died ends."""
    while await server.engine.healthy():
        await asyncio.sleep(_LOOK_S)
    print("ERROR dynamo.trtllm.engine_monitor: the engine is not healthy, shutting down", flush=True)
    os._exit(1)


if __name__ == "__main__":
    asyncio.run(_work(_arguments()))
    sys.exit(0)
