"""tensorrt_llm/commands/serve.py (00209af1): the command `trtllm-serve`."""

from __future__ import annotations

import asyncio
import socket

import click
import torch
import yaml

from tensorrt_llm.logger import logger
from tensorrt_llm.serve.disagg_auto_scaling import Cluster
from tensorrt_llm.serve.engine import engine
from tensorrt_llm.serve.http import serve as serve_http
from tensorrt_llm.serve.http import until_told
from tensorrt_llm.serve.openai_disagg_server import OpenAIDisaggServer
from tensorrt_llm.serve.openai_server import OpenAIServer
from tensorrt_llm.version import NUMBER

_SEVERITIES = ["internal_error", "error", "warning", "info", "verbose", "debug", "trace"]


def _bound(host: str, port: int) -> socket.socket:
    """Bound before anything is loaded, and without SO_REUSEADDR."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.bind((host, port))
    except OSError as e:
        raise RuntimeError(f"Failed to bind socket to {host}:{port}: {e}") from None
    return bound


@click.command("serve")
@click.argument("model", type=str)
@click.option("--host", type=str, default="localhost")
@click.option("--port", type=int, default=8000)
@click.option("--backend", type=click.Choice(["pytorch", "tensorrt", "trt", "_autodeploy"]), default="pytorch")
@click.option("--log_level", type=click.Choice(_SEVERITIES), default="info")
@click.option("--tensor_parallel_size", "--tp_size", type=int, default=1)
@click.option("--pipeline_parallel_size", "--pp_size", type=int, default=1)
@click.option("--context_parallel_size", "--cp_size", type=int, default=1)
@click.option("--extra_llm_api_options", "--config", "extra_llm_api_options", type=str, default=None)
@click.option("--server_role", type=str, default=None)
@click.option("--disagg_cluster_uri", type=str, default=None)
def serve(model: str, host: str, port: int, extra_llm_api_options: str | None, server_role: str | None, **given):
    """One server."""
    logger.set_level(given["log_level"])
    if torch.cuda.device_count() == 0:
        raise ValueError("No GPU devices found on the node")
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
    args = {"model": model, "backend": given["backend"], **{name: given[name] for name in sizes[:2]}}
    args |= {sizes[2]: given[sizes[2]]} if NUMBER >= (1, 0) else {}
    if extra_llm_api_options is not None:
        with open(extra_llm_api_options) as file:
            args |= yaml.safe_load(file) or {}
    cluster = args.pop("disagg_cluster", None)
    if cluster:
        assert server_role is not None, (
            "server_role is required when metadata_server_cfg or disagg_cluster_config is provided"
        )
    asyncio.run(_launch_server(host, port, args, Cluster(cluster) if cluster else None, server_role))


async def _launch_server(host: str, port: int, args: dict, cluster: Cluster | None, role: str | None) -> None:
    bound = _bound(host, port)
    server = OpenAIServer(engine(), args["model"])
    listening = None
    if NUMBER >= (1, 4):
        listening = await serve_http(bound, server.handle)
    await server.engine.start(args)
    server.starting = False
    listening = listening or await serve_http(bound, server.handle)
    registered = asyncio.create_task(cluster.register(role.upper(), host, port)) if cluster else None
    await until_told()
    if registered is not None:
        registered.cancel()
        await cluster.deregister()
    listening.close()
    await server.engine.shutdown()


@click.command("disaggregated")
@click.option("-c", "--config_file", type=str, default=None)
@click.option("-m", "--metadata_server_config_file", type=str, default=None)
@click.option("-t", "--server_start_timeout", type=int, default=180)
@click.option("-r", "--request_timeout", type=int, default=180)
@click.option("-l", "--log_level", type=click.Choice(_SEVERITIES), default="info")
@click.option("--metrics-log-interval", type=int, default=0)
def disaggregated(config_file: str, server_start_timeout: int, **given) -> None:
    """The router."""
    with open(config_file) as file:
        config = yaml.safe_load(file)
    cluster = Cluster(config["disagg_cluster"]) if config.get("disagg_cluster") else None
    servers = [] if cluster else [_urls(config, role) for role in ("context_servers", "generation_servers")]
    asyncio.run(_launch_router(config, servers or [[], []], cluster, server_start_timeout))


def _urls(config: dict, section: str) -> list[str]:
    """llmapi/disagg_utils.py (0228a712) `extract_ctx_gen_cfgs`; whether a URL is there twice, it does not look."""
    found = config[section]
    urls, count = found.get("urls") or [], found.get("num_instances", 1)
    for url in urls:
        _host, port = url.split(":")
        int(port)
    if len(urls) != count:
        raise ValueError(f"Number of hostnames ({len(urls)}) should be equal to the number of instances ({count})")
    return list(urls)


async def _launch_router(config: dict, servers: list[list[str]], cluster: Cluster | None, timeout: int) -> None:
    bound = _bound(config.get("hostname", "localhost"), config.get("port", 8000))
    router = OpenAIDisaggServer(servers, cluster, timeout)
    await router.setup()
    listening = await serve_http(bound, router.handle)
    await until_told()
    listening.close()


class _DefaultGroup(click.Group):
    def resolve_command(self, ctx, args):
        if args and args[0] not in self.commands:
            return "serve", self.commands["serve"], args
        return super().resolve_command(ctx, args)


main = _DefaultGroup(commands={"serve": serve, "disaggregated": disaggregated})
