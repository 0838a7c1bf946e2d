"""The configuration of TensorRT-LLM's own Slurm benchmark: examples/disaggregated/slurm/benchmark/config.yaml.

Keys: that file and `submit.py` beside it (read at 03dd8e4d and c40f1157).
"""

from __future__ import annotations

import math
import shlex
from typing import Any

from trtdist.topology.importers.draft import Document, Draft, Fields, name_of
from trtdist.topology.importers.engine import engine_arguments, ranks_of

__all__ = ["FORMAT", "benchmark", "recognises"]

FORMAT = "TensorRT-LLM Slurm benchmark"
_ROLES = (("ctx", "num_ctx_servers", "context_servers"), ("gen", "num_gen_servers", "generation_servers"))
_KNOWN = {
    "accuracy": "it is not part of a topology",
    "benchmark": "`trtdist bench` measures; it is not part of a topology",
    "build_wheel": "nothing is built or installed in a job; build it into the image",
    "cache_transceiver_precheck": "`trtdist doctor` checks before a start; it is not part of a topology",
    "compact_packing": "servers smaller than a node always share nodes",
    "container_workdir": "a run directory holds all; set TRTDIST_RUNS for another place",
    "ctx_worker_env_var": "all ranks have one environment; add it to container.env if it may be everywhere",
    "dataset_file": "`trtdist bench` measures; it is not part of a topology",
    "eplb_num_slots": "moe_config.load_balancer of the generation servers counts",
    "gen_worker_env_var": "all ranks have one environment; add it to container.env if it may be everywhere",
    "gpus_per_ctx_server": "it follows from the sizes of a server",
    "gpus_per_gen_server": "it follows from the sizes of a server",
    "job_workspace": "a run directory holds all; set TRTDIST_RUNS for another place",
    "kvbm": "nothing is built or installed in a job; build it into the image and set kv_connector_config",
    "llm_models_root": "models are named one by one; give --model",
    "log_dir": "a run directory holds all; set TRTDIST_RUNS for another place",
    "metadata": "it is informational",
    "model_name": "environment.model_path names the model; give --model",
    "numa_bind": "ranks are not bound to memory; set it with slurm.extra_srun",
    "profiling": "profilers are not started",
    "script_file": "`trtdist render` writes the scripts",
    "sequence": "`trtdist bench` measures; it is not part of a topology",
    "service_discovery": "servers register in the etcd of the run and need no such setting",
    "server_env_var": "the router runs in trtdist's own environment",
    "set_segment": "set slurm.segment to a number of nodes",
    "trtllm_repo": "nothing is built or installed in a job; build it into the image",
    "trtllm_wheel_path": "nothing is built or installed in a job; build it into the image",
    "work_dir": "a run directory holds all; set TRTDIST_RUNS for another place",
}


def recognises(document: Document) -> bool:
    """Whether a file has this form."""
    return all(document.root.get(key) is not None for key in ("hardware", "worker_config"))


def benchmark(document: Document, draft: Draft) -> None:
    """Take a configuration over."""
    top = draft.fields(document)
    slurm, hardware, environment = (top.inner(key) for key in ("slurm", "hardware", "environment"))
    draft.put("name", name_of(draft.wishes.name, slurm.text("job_name"), "benchmark"))
    model = environment.text("model_path")
    draft.data["model"] = draft.wishes.model or model
    draft.put("runtime", "trtllm-serve")
    draft.put("launch", "per_server")
    _roles(top, hardware, draft)
    image = draft.wishes.image or environment.text("container_image")
    draft.put("container.image", image)
    draft.put("container.runtime", "pyxis" if image else None)
    mounts = environment.text("container_mount")
    draft.put("container.mounts", mounts.split(",") if mounts else None)
    pairs = [word.partition("=") for word in _words(environment, "worker_env_var", draft)]
    draft.put("container.env", {name: value for name, mark, value in pairs if mark} or None)
    for key, ours in (("account", "account"), ("partition", "partition"), ("job_time", "time")):
        draft.put(f"slurm.{ours}", slurm.text(key))
    draft.put("slurm.gpus_per_node", hardware.number("gpus_per_node") or None)
    words = _words(slurm, "extra_args", draft)
    for word in [word for word in words if word.startswith(("--gres=gpu", "--gpus"))]:
        draft.change("slurm.extra_args", slurm.at("extra_args"), f"{word} follows from the plan and gpus_per_node")
        words.remove(word)
    draft.put("slurm.extra_sbatch", words or None)
    for key in ("trtllm_wheel_path", "extra_args"):
        _ignore_empty(environment, key)
        _ignore_empty(slurm, key)
    draft.lose_rest(top, _KNOWN)


def _roles(top: Fields, hardware: Fields, draft: Draft) -> None:
    workers = top.inner("worker_config")
    counts = {role: hardware.number(count, 1) for role, count, _ in _ROLES}
    if counts["ctx"] == 0:
        draft.lose("hardware.num_ctx_servers", hardware.at("num_ctx_servers"), "0 leaves one role, which answers alone")
    servers: list[tuple[int, int]] = []
    for role, _, section in _ROLES:
        arguments: dict[str, Any] = engine_arguments(workers.inner(role), draft)
        if counts["ctx"] == 0 and role == "ctx":
            continue
        key = "servers" if counts["ctx"] == 0 else section
        draft.put(key, {"num_instances": counts[role], **arguments})
        servers.append((counts[role], ranks_of(arguments)))
    _tell_shared_nodes(servers, hardware, draft)


def _tell_shared_nodes(servers: list[tuple[int, int]], hardware: Fields, draft: Draft) -> None:
    """`servers` has number and ranks of each role; some releases of `submit.py` give each server nodes of its own."""
    per_node = hardware.number("gpus_per_node")
    small = [(number, ranks) for number, ranks in servers if ranks < per_node]
    own = sum(number for number, _ in small)
    if small and own > math.ceil(sum(number * ranks for number, ranks in small) / per_node):
        what = f"the {own} servers smaller than a node share nodes, and have none of their own"
        draft.change("hardware.gpus_per_node", hardware.at("gpus_per_node"), what)


def _words(fields: Fields, key: str, draft: Draft) -> list[str]:
    try:
        return shlex.split(fields.text(key) or "")
    except ValueError:
        draft.lose(fields.named(key), fields.at(key), "a quote or backslash in it is not closed", "correct it")
        return []


def _ignore_empty(fields: Fields, key: str) -> None:
    found = fields.section.get(key)
    if found is not None and getattr(found.value, "text", "x") == "":
        fields.entry(key)
