"""A deployment as TensorRT-LLM's own files: for its router, for each engine, and for the original example.

`disagg_config.yaml` as `extract_disagg_cfg` in `tensorrt_llm/llmapi/disagg_utils.py` reads it (0228a712),
`extra_llm_api_options.yaml` as `trtllm-serve --extra_llm_api_options` does, and `model.json` as the example of February
2025 did (engine arguments and those of its PyTorchConfig; null is not passed on). Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import yaml

from trtdist.plan import Plan, Server
from trtdist.topology.lint.versions import Version, parse
from trtdist.topology.model import Topology

__all__ = [
    "addresses_by_name",
    "cluster_of",
    "disagg_config",
    "engine_options",
    "model_json",
    "router_config",
    "to_yaml",
    "trtllm_files",
]

_FIRST_PORT = 8001
_SECTIONS = {"context": "context_servers", "generation": "generation_servers"}
_ROUTERS = {"round_robin": "round_robin", "least_loaded": "load_balancing", "kv_prefix": "kv_cache_aware"}
# A backend has no default: without one, servers start and refuse what the router sends them.
_BACKENDS = {"mpi_world": "MPI", "per_server": "UCX"}
_OF_EXAMPLE = [
    "tokenizer",
    "tokenizer_model",
    "skip_tokenizer_init",
    "trust_remote_code",
    "dtype",
    "revision",
    "tokenizer_revision",
    "speculative_model",
    "enable_chunked_prefill",
    "enable_overlap_scheduler",
    "use_cuda_graph",
    "cuda_graph_batch_sizes",
    "cuda_graph_max_batch_size",
    "cuda_graph_padding_enabled",
    "kv_cache_dtype",
]


def trtllm_files(planned: Plan, release: str | None = None) -> dict[str, str]:
    """All files of a deployment by name, for a release of TensorRT-LLM, None for today's.

    Hosts are the numbers of nodes, since there is no allocation yet.
    """
    version = parse(release or "")
    roles = {server.role: server for server in reversed(planned.servers)}
    files = {
        f"{'' if role == 'monolithic' else f'{role}.'}extra_llm_api_options.yaml": to_yaml(
            engine_options(planned, server, version)
        )
        for role, server in sorted(roles.items())
    }
    if "context" in roles:
        files["disagg_config.yaml"] = to_yaml(disagg_config(planned, addresses_by_name(planned), version))
    return {**files, "model.json": model_json(planned)}


def addresses_by_name(planned: Plan) -> dict[str, str]:
    """An address for each server, `nodeN:PORT`: the node that its leader is planned on, and a port of its own."""
    return {
        server.name: f"node{server.leader.node}:{_FIRST_PORT + index}" for index, server in enumerate(planned.servers)
    }


def engine_options(planned: Plan, server: Server, version: Version | None = None) -> dict[str, Any]:
    """The arguments of one engine: its sizes, what the topology says, and what disaggregated servers cannot do without.

    That is a backend for the transfer, by the launch mode, and no overlap scheduler on context servers, both by the
    names of the release; one before 0.20 has neither.
    """
    sizes = {
        "tensor_parallel_size": server.tensor_parallel_size,
        "pipeline_parallel_size": server.pipeline_parallel_size,
    }
    if server.context_parallel_size > 1:
        sizes["context_parallel_size"] = server.context_parallel_size
    arguments = {key: value for key, value in server.engine_args.items() if key != "reference"}
    if server.role in _SECTIONS and (version is None or version.minor >= (0, 21)):
        # From 1.3 on the transceiver of Python is there, which UCX has none of.
        newer = version is not None and version.minor >= (1, 3) and planned.launch == "per_server"
        backend = "NIXL" if newer else _BACKENDS[planned.launch]
        early = version is not None and version.minor < (1, 0)
        transfer = arguments.get("cache_transceiver_config") or {}
        arguments["cache_transceiver_config"] = {"backend": backend.lower() if early else backend, **transfer}
    said = arguments.keys() & {"enable_overlap_scheduler", "pytorch_backend_config"}
    if server.role == "context" and not said and (version is None or version.minor >= (0, 20)):
        arguments.setdefault("disable_overlap_scheduler", True)
    return {**sizes, **arguments}


def disagg_config(planned: Plan, addresses: Mapping[str, str], version: Version | None = None) -> dict[str, Any]:
    """The configuration of the router, with the address `host:port` of each server by its name.

    The arguments of the engines are in it, too: `trtllm-serve disaggregated_mpi_worker` reads them there.
    """
    config: dict[str, Any] = {"hostname": "localhost", "port": 8000, "model": planned.model, "backend": "pytorch"}
    if planned.http is not None:
        config |= {"hostname": planned.http.host, "port": planned.http.port or config["port"]}
    for role, section in _SECTIONS.items():
        servers = [server for server in planned.servers if server.role == role]
        config[section] = {
            "num_instances": len(servers),
            "router": {"type": _ROUTERS[planned.router_policy]},
            **engine_options(planned, servers[0], version),
            "urls": [addresses[server.name] for server in servers],
        }
    return config


def router_config(planned: Plan, addresses: Mapping[str, str]) -> dict[str, Any]:
    """What the router alone reads, with words in place of what is found in the allocation: `@host@` and `@port@` where
    it listens. Without addresses it looks for its servers elsewhere."""
    config: dict[str, Any] = {"hostname": "@host@", "port": "@port@"}
    for role, section in _SECTIONS.items():
        servers = [server.name for server in planned.servers if server.role == role]
        urls = {"num_instances": len(servers), "urls": [addresses[name] for name in servers]} if addresses else {}
        config[section] = {"router": {"type": _ROUTERS[planned.router_policy]}, **urls}
    return config


def cluster_of(topology: Topology) -> dict[str, Any]:
    """Where servers register themselves: `@etcd@` and `@run@` stand for what is found in the allocation."""
    sections = {"context_servers": topology.context_servers, "generation_servers": topology.generation_servers}
    return {
        "cluster_uri": "@etcd@",
        "cluster_name": "@run@",
        "minimal_instances": {key: section.num_instances for key, section in sections.items() if section is not None},
    }


def model_json(planned: Plan) -> str:
    """The model.json of the original example: what all servers have alike, and sizes only for monolithic ones.

    Its disaggregated workers refuse sizes and `trust_remote_code` there, and set the latter themselves.
    """
    alike = [_older(server.engine_args) for server in planned.servers]
    first = planned.servers[0]
    found: dict[str, Any] = {"model": planned.model}
    if first.role == "monolithic":
        found["tensor_parallel_size"] = first.tensor_parallel_size
    for key in _OF_EXAMPLE:
        value = alike[0].get(key)
        refused = key == "trust_remote_code" and first.role != "monolithic"
        if value is not None and not refused and all(arguments.get(key) == value for arguments in alike):
            found[key] = value
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _older(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names that the example knows."""
    found = dict(arguments)
    if isinstance(arguments.get("disable_overlap_scheduler"), bool):
        found["enable_overlap_scheduler"] = not arguments["disable_overlap_scheduler"]
    graphs = arguments.get("cuda_graph_config")
    if "cuda_graph_config" in arguments:
        found["use_cuda_graph"] = graphs is not None
    if isinstance(graphs, Mapping):
        found["cuda_graph_batch_sizes"] = graphs.get("batch_sizes")
        found["cuda_graph_max_batch_size"] = graphs.get("max_batch_size")
        found["cuda_graph_padding_enabled"] = graphs.get("enable_padding")
    cache = arguments.get("kv_cache_config")
    if isinstance(cache, Mapping) and "dtype" in cache:
        found["kv_cache_dtype"] = cache["dtype"]
    return found


def to_yaml(data: Mapping[str, Any]) -> str:
    """A file of configuration, each line whole."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=math.inf)
