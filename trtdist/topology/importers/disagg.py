"""TensorRT-LLM's disaggregated configuration, `disagg_config.yaml`, and the original example's.

What each key means: `extract_disagg_cfg` and `extract_ctx_gen_cfgs` in `tensorrt_llm/llmapi/disagg_utils.py` (read at
0228a712): top-level keys that are no settings of the router belong to both server sections, `urls` count servers, and
a URL in both sections is one server for both roles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from trtdist.topology.importers.draft import Document, Draft, Fields, merged, name_of
from trtdist.topology.importers.engine import engine_arguments, leave_backend
from trtdist.topology.importers.router import router_policy
from trtdist.topology.nodes import Section

__all__ = ["FORMAT", "SIDES", "disagg", "of_example", "recognises"]

FORMAT = "TensorRT-LLM disaggregated configuration"
SIDES = ("context_servers", "generation_servers")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_OF_EXAMPLE = ("tp_size", "pp_size", "gpu_fraction")
_ROUTER = {
    "max_retries": "a request is asked again by its own requester, before its first token",
    "perf_metrics_max_requests": "`trtdist bench` measures; nothing is kept in the router",
    "perf_metrics_output_dir": "`trtdist bench` measures; nothing is kept in the router",
    "conditional_disagg_config": "short prompts pass through context servers like all others",
    "otlp_config": "no traces are sent; the engine's own are set by otlp_traces_endpoint in the server sections",
    "disagg_cluster": "servers register in the etcd of the run and need no such setting",
    "node_id": "instances are known by their leases",
    "schedule_style": "a request goes to a context server first",
    "allow_request_chat_template": "the front end uses the template of the model",
    "gen_strip_message_history": "tokens and not messages travel to the servers",
    "gen_tokids_ctxbytes": "tokens travel as they are",
    "disagg_coordinator_url": "routers of a run need no coordinator",
    "server_keep_alive_timeout": "the front end decides itself",
    "stress_config": "it is for TensorRT-LLM's own stress test and is no engine argument",
}


def recognises(document: Document) -> bool:
    """Whether a file has this form."""
    return any(document.root.get(side) is not None for side in SIDES)


def of_example(document: Document) -> bool:
    """Whether the sections have the names of February 2025, when all servers shared one MPI world."""
    sections = [entry.value for side in SIDES if (entry := document.root.get(side)) is not None]
    return any(
        isinstance(section, Section) and section.get(key) is not None for section in sections for key in _OF_EXAMPLE
    )


def disagg(document: Document, draft: Draft, own: dict[str, dict[str, Any]], original: dict[str, Any] | None) -> None:
    """Take a configuration over.

    `own` are arguments of files for one side each, which count before those of the sections, as each engine reads its
    own file only; `original` those of a model.json or llm_api_config.yaml, which count least.
    """
    top = draft.fields(document)
    draft.put("name", name_of(draft.wishes.name, document.name.rsplit("/", 1)[-1].rpartition(".")[0]))
    model = top.text("model")
    served = draft.data.get("model") or model
    draft.data["model"] = served
    if model not in (None, served):
        draft.lose("model", top.at("model"), f"{served} is served, as the other files or options say")
    _front_end(top, draft)
    shared = _shared(top, draft)
    sections = {side: top.inner(side) for side in SIDES}
    urls = {side: _urls(fields) for side, fields in sections.items()}
    found = {side: _section(fields, urls[side], shared, draft) for side, fields in sections.items()}
    policy = router_policy([(fields.inner("router"), side) for side, fields in sections.items()], draft)
    for side in SIDES:
        found[side] = merged(merged(original or {}, found[side]), own.get(side, {}))
    _both_sides_or_one(found, urls, sections, draft)
    draft.put("router.policy", policy if policy != "round_robin" else None)
    for fields in (top, *sections.values()):
        draft.lose_rest(fields, {})


def _front_end(top: Fields, draft: Draft) -> None:
    host = top.text("hostname")
    if host is not None and re.fullmatch(r"[\d.]+|[0-9a-f:]*:[0-9a-f:.]*", host) and host not in _LOCAL:
        draft.put("router.http.host", host)
    elif host is not None and host not in _LOCAL:
        draft.lose("hostname", top.at("hostname"), "the head node is found when the deployment starts")
    port = top.number("port")
    draft.put("router.http.port", port or None)
    workers = top.number("num_workers", 1)
    draft.put("router.http.processes", workers if workers > 1 else None)


def _shared(top: Fields, draft: Draft) -> dict[str, Any]:
    """Engine arguments at the top level, which belong to both sections."""
    metrics = top.value("return_perf_metrics")
    draft.lose_known(top, _ROUTER)
    for side in SIDES:
        top.inner(side)
    leave_backend(top, draft)
    shared = engine_arguments(top, draft)
    return {**shared, **({"return_perf_metrics": True} if metrics is True else {})}


def _urls(fields: Fields) -> list[str]:
    return [str(url) for url in fields.items("urls")]


def _section(fields: Fields, urls: list[str], shared: dict[str, Any], draft: Draft) -> dict[str, Any]:
    count = fields.number("num_instances", len(urls) or 1)
    if urls:
        draft.change(fields.named("urls"), fields.at("urls"), "hosts and ports are found when the deployment starts")
    if urls and len(urls) != count:
        draft.lose(
            fields.named("urls"),
            fields.at("urls"),
            f"there are {len(urls)} for num_instances {count}, which TensorRT-LLM refuses",
            "num_instances counts; correct it if it is wrong",
        )
    fields.inner("router")
    leave_backend(fields, draft)
    own = engine_arguments(fields, draft)
    for path in _contradicted(shared, own):
        why = f"{path} of {fields.path} counts, and the top level says otherwise"
        draft.lose(path, fields.at(path.partition(".")[0]), why)
    kept = merged(shared, own)
    return {"num_instances": count, **kept}


def _contradicted(shared: dict[str, Any], own: dict[str, Any], above: str = "") -> Iterator[str]:
    """Paths to which the top level and a section give different values."""
    for key, value in shared.items():
        if isinstance(value, dict) and isinstance(own.get(key), dict):
            yield from _contradicted(value, own[key], f"{above}{key}.")
        elif key in own and own[key] != value:
            yield f"{above}{key}"


def _both_sides_or_one(
    found: dict[str, dict[str, Any]], urls: dict[str, list[str]], sections: dict[str, Fields], draft: Draft
) -> None:
    context, generation = (found[side] for side in SIDES)
    both = sorted(set(urls[SIDES[0]]) & set(urls[SIDES[1]]))
    if both and set(urls[SIDES[0]]) == set(urls[SIDES[1]]):
        draft.change(SIDES[0], sections[SIDES[0]].origin, "the same servers have both roles, so they are `servers`")
        draft.put("servers", generation)
        return
    if both:
        draft.lose(
            "urls",
            sections[SIDES[1]].at("urls"),
            f"{both[0]} is one server for both roles, and is two servers here, with more ranks",
            "use `servers` for such, in a topology of their own",
        )
    if context["num_instances"] == 0 or generation["num_instances"] == 0:
        side = SIDES[0] if context["num_instances"] == 0 else SIDES[1]
        other = generation if side == SIDES[0] else context
        draft.lose(
            f"{side}.num_instances",
            sections[side].at("num_instances"),
            "0 leaves one role, which answers alone here: the others are `servers`",
        )
        draft.put("servers", {key: value for key, value in other.items() if key != "cache_transceiver_config"})
        if "cache_transceiver_config" in other:
            alone = sections[SIDES[1] if side == SIDES[0] else SIDES[0]]
            key = "cache_transceiver_config"
            draft.lose(alone.named(key), alone.at(key), "servers that answer alone transfer nothing")
        return
    draft.put(SIDES[0], context)
    draft.put(SIDES[1], generation)
