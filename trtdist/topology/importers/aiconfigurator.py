"""What aiconfigurator writes for TensorRT-LLM: generator_config.yaml and the engines' files beside it.

Keys: docs/generator_overview.md, generator/module_bridge.py and generator/rule_plugin/trtllm.rule of
github.com/ai-dynamo/aiconfigurator (read at 095f58a).
"""

from __future__ import annotations

from typing import Any

from trtdist.topology.importers.draft import Document, Draft, Fields, merged, name_of
from trtdist.topology.importers.engine import engine_arguments

__all__ = ["FORMAT", "aiconfigurator", "recognises"]

FORMAT = "aiconfigurator output"
_ROLES = (
    ("prefill", "prefill_workers", "context_servers"),
    ("decode", "decode_workers", "generation_servers"),
    ("agg", "agg_workers", "servers"),
)
# What the generator derives engine arguments from, and which is none itself.
_ESTIMATES = [
    "gpus_per_worker",
    "memory",
    "gemm_quant_mode",
    "moe_quant_mode",
    "kvcache_quant_mode",
    "fmha_quant_mode",
    "comm_quant_mode",
    "data_parallel_size",
]
_KNOWN = {
    "BenchConfig": "`trtdist bench` measures; it is not part of a topology",
    "DynConfig": "the front end of the run serves",
    "K8sConfig": "nothing runs on Kubernetes here",
    "ModelConfig": "the engine reads it from the model",
    "SflowConfig": "it is for another launcher",
    "SlaConfig": "it was the aim of the search; `trtdist bench` measures",
    "head_node_ip": "the head node is found when the deployment starts",
    "system_name": "it is informational",
}


def recognises(document: Document) -> bool:
    """Whether a file is a generator_config.yaml, or the input of the generator."""
    keys = {entry.key for entry in document.root.entries}
    return "ServiceConfig" in keys and bool(keys & {"params", "Workers", "WorkerConfig"})


def aiconfigurator(document: Document, draft: Draft, own: dict[str, dict[str, Any]]) -> None:
    """Take a configuration over; `own` are the engine's files by server section, which count before it."""
    top = draft.fields(document)
    service, workers = top.inner("ServiceConfig"), top.inner("WorkerConfig")
    names = [service.text(key) for key in ("model_path", "served_model_path", "served_model_name", "model_name")]
    model = next((name for name in names if name), None)
    draft.data["model"] = draft.wishes.model or model
    draft.put("name", name_of(draft.wishes.name, (model or "").rpartition("/")[2], "aiconfigurator"))
    draft.put("runtime", "dynamo")
    draft.put("launch", "per_server")
    draft.put("router.http.port", service.number("port") or None)
    mode = top.inner("DynConfig").text("mode")
    for role, count, section in _ROLES:
        if mode in ("agg", "disagg") and (mode == "agg") != (role == "agg"):
            # Its counts are 1 for roles that there are not.
            workers.number(count)
            continue
        number = workers.number(count)
        arguments = _role(top, role, draft)
        if number or (arguments and section in own):
            draft.put(section, {"num_instances": number or 1, **merged(arguments, own.get(section, {}))})
    image = draft.wishes.image or top.inner("K8sConfig").text("k8s_image")
    draft.put("container.image", image)
    draft.put("container.runtime", "pyxis" if image else None)
    draft.put("slurm.gpus_per_node", top.inner("NodeConfig").number("num_gpus_per_node") or None)
    slurm = top.inner("SflowConfig")
    for key, ours in (("slurm_account", "account"), ("slurm_partition", "partition")):
        draft.put(f"slurm.{ours}", slurm.text(key))
    draft.lose_rest(top, _KNOWN)


def _role(top: Fields, role: str, draft: Draft) -> dict[str, Any]:
    """The arguments of a role; data parallelism is that of attention, and multiplies the ranks of a server."""
    found: dict[str, Any] = {}
    for key in ("params", "Workers"):
        fields = top.inner(key).inner(role)
        for name in _ESTIMATES:
            if name == "data_parallel_size":
                replicas = fields.number(name, 1)
                if replicas > 1:
                    found["enable_attention_dp"] = True
                    draft.change(fields.named(name), fields.at(name), "is enable_attention_dp over the same ranks")
                    found["_replicas"] = replicas
            else:
                fields.value(name)
        found = merged(found, engine_arguments(fields, draft))
    replicas = found.pop("_replicas", 1)
    if replicas > 1:
        found["tensor_parallel_size"] = found.get("tensor_parallel_size", 1) * replicas
    if found.get("kv_cache_config", {}).get("dtype") in ("float16", "bfloat16"):
        found["kv_cache_config"]["dtype"] = "auto"
    return found
