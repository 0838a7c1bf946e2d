"""What `LLM` is told: the plan's placement, the user's own engine arguments, and how KV caches travel.

Whether an argument exists is asked of the installed release, before it loads anything: TensorRT-LLM refuses it too
(`tensorrt_llm/llmapi/llm.py`, "got invalid argument"), and before 1.0 some names were dropped silently.

KV transport by release (tensorrt_llm/llmapi/llm_args.py `CacheTransceiverConfig`; pull requests 3065, 3798, 5234):
up to 0.20 there is no `backend`, and the environment decides; 0.21 writes backends in lower case, 1.0 in upper case;
from 1.3 `transceiver_runtime` must be CPP for whatever is not NIXL. `DEFAULT` has meant UCX, NIXL and UCX again, so it
is never passed on.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trtdist.engines.base import EngineConfig, EngineError
from trtdist.engines.tensorrt_llm.api import Api, field_names
from trtdist.engines.tensorrt_llm.room import BUFFER

__all__ = ["arguments", "environment", "tokens_per_block", "transport", "wants_events"]

_TRANSCEIVER = "cache_transceiver_config"
# Before 0.21, cpp/tensorrt_llm/common/envUtils.cpp.
_VARIABLES = {"MPI": "TRTLLM_USE_MPI_KVCACHE", "UCX": "TRTLLM_USE_UCX_KVCACHE"}
_SPELLINGS = ("MPI", "UCX", "NIXL", "MOONCAKE")
# After so long a KV cache that nobody has fetched is freed: the default from 1.3 on (pull request 12249). Before that
# it stays for ever.
_TRANSFER_MS = 60000
# KvCacheConfig.tokens_per_block.
_TOKENS_PER_BLOCK = 32


def transport(config: EngineConfig, api: Api) -> str:
    """How KV caches leave or reach this server: `MPI`, `UCX`, `NIXL` ...; "" for a monolithic server, which has none.

    EngineError when it cannot work for the way the ranks are launched, or this release does not have it.
    """
    if config.server.role == "monolithic":
        return ""
    fields = field_names(api.transceiver)
    apart = "NIXL" if "transceiver_runtime" in fields else "UCX"
    usual = "MPI" if config.plan.launch == "mpi_world" else apart
    given = _section(config).get("backend")
    found = str(given).upper() if given is not None and str(given).upper() != "DEFAULT" else usual
    if found == "MPI" and config.plan.launch != "mpi_world":
        raise EngineError(
            f"{config.server.name}: KV caches cannot travel over MPI between servers that have a world each; write"
            f" cache_transceiver_config: {{backend: {apart}}} for all servers, or launch: mpi_world"
        )
    known = _backends(api) if "backend" in fields else tuple(_VARIABLES)
    if found.lower() not in {name.lower() for name in known}:
        raise EngineError(
            f"{config.server.name}: TensorRT-LLM {api.version} does not move KV caches by {found}, but by"
            f" {' or '.join(sorted(name for name in known if name.upper() != 'DEFAULT'))}"
        )
    return found


def environment(config: EngineConfig, api: Api) -> dict[str, str]:
    """Variables that tell a release without a `backend` how KV caches travel; every rank needs them."""
    if "backend" in field_names(api.transceiver) or config.server.role == "monolithic":
        return {}
    return {_VARIABLES[transport(config, api)]: "1"}


def arguments(config: EngineConfig, api: Api) -> dict[str, Any]:
    """The arguments of `LLM`; EngineError for one that this release does not have."""
    server = config.server
    given = {name: value for name, value in server.engine_args.items() if name != "reference" and value is not None}
    if str(given.get("backend", "pytorch")) != "pytorch":
        raise EngineError(f"{server.name}: backend {given['backend']} is not supported; leave it out for pytorch")
    given.pop("backend", None)
    if server.role != "monolithic":
        _refuse_other_ways(config, api)
        given = _for_disaggregation(config, api, given)
    if wants_events(config, api):
        given["kv_cache_config"] = {"event_buffer_max_size": BUFFER, **_kv_cache(config)}
    sizes = {
        "tensor_parallel_size": server.tensor_parallel_size,
        "pipeline_parallel_size": server.pipeline_parallel_size,
        "context_parallel_size": server.context_parallel_size,
    }
    placed = {name: size for name, size in sizes.items() if size > 1 or name == "tensor_parallel_size"}
    _refuse_unknown({**given, **placed}, api.argument_names, f"{server.name}: TensorRT-LLM {api.version}")
    # Told by value: what TensorRT-LLM makes of the mappings must not reach back into the plan.
    return api.merge({"model": config.plan.model, **placed}, json.loads(json.dumps(given)))


def wants_events(config: EngineConfig, api: Api) -> bool:
    """Whether the events of the KV cache are of use: for a server that reads prompts, routed by what servers hold."""
    reads = config.server.role != "generation" and config.plan.router_policy == "kv_prefix"
    kept = _kv_cache(config)
    asked = kept.get("enable_block_reuse") is not False and kept.get("event_buffer_max_size") != 0
    return reads and asked and api.number >= (1, 0)


def tokens_per_block(config: EngineConfig) -> int:
    """How many tokens a block of the KV cache holds."""
    return int(_kv_cache(config).get("tokens_per_block") or _TOKENS_PER_BLOCK)


def _kv_cache(config: EngineConfig) -> dict[str, Any]:
    return dict(config.server.engine_args.get("kv_cache_config") or {})


def _refuse_other_ways(config: EngineConfig, api: Api) -> None:
    """Nothing in TensorRT-LLM compares the two ends: caches would leave one way and be awaited another."""
    mine = transport(config, api)
    for other in config.plan.servers:
        theirs = transport(replace(config, server=other, rank=0), api)
        if theirs != mine:
            raise EngineError(
                f"{config.server.name} moves KV caches over {mine} and {other.name} over {theirs}: give context and"
                " generation servers the same cache_transceiver_config"
            )


def _for_disaggregation(config: EngineConfig, api: Api, given: Mapping[str, Any]) -> dict[str, Any]:
    fields, found = field_names(api.transceiver), {**given}
    if "backend" in fields:
        way = transport(config, api)
        section = {**_section(config), "backend": next(name for name in _backends(api) if name.upper() == way)}
        if "transceiver_runtime" in fields and way != "NIXL":
            section.setdefault("transceiver_runtime", "CPP")
        if "kv_transfer_timeout_ms" in fields:
            section.setdefault("kv_transfer_timeout_ms", _TRANSFER_MS)
        _refuse_unknown(section, fields, f"{config.server.name}: {_TRANSCEIVER} of TensorRT-LLM {api.version}")
        found[_TRANSCEIVER] = section
    elif "backend" in _section(config):
        found[_TRANSCEIVER] = {name: value for name, value in _section(config).items() if name != "backend"}
    if not found.get(_TRANSCEIVER):
        found.pop(_TRANSCEIVER, None)
    # A context server refuses requests while steps overlap (tensorrt_llm/executor/worker.py, `_enqueue_request`).
    if config.server.role == "context" and "disable_overlap_scheduler" in api.argument_names:
        found.setdefault("disable_overlap_scheduler", True)
    return found


def _section(config: EngineConfig) -> dict[str, Any]:
    return dict(config.server.engine_args.get(_TRANSCEIVER) or {})


def _backends(api: Api) -> tuple[str, ...]:
    """The backends as this release spells them: the choices of the field, found in whatever it is wrapped in."""
    annotation: Any = api.transceiver.model_fields["backend"].annotation
    return tuple(_words(annotation)) or _SPELLINGS


def _words(annotation: Any) -> Iterable[str]:
    for inner in getattr(annotation, "__args__", ()):
        if isinstance(inner, str):
            yield inner
        else:
            yield from _words(inner)


def _refuse_unknown(given: Mapping[str, Any], known: frozenset[str], whose: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            more = f"; did you mean {near[0]!r}?" if near else ""
            raise EngineError(f"{whose} has no argument {name!r}{more}")
