"""Whether a model can be shared among the ranks of a server, by its config.json.

KV heads are shared evenly or repeated evenly: `duplicate_kv_weight` in `tensorrt_llm/_torch/models/modeling_utils.py`
asserts it; MoE sizes divide the ranks of a layer: `Mapping` in `tensorrt_llm/mapping.py`.
"""

from __future__ import annotations

from typing import Any

from trtdist.topology.lint.case import Case
from trtdist.topology.lint.model_facts import ModelFacts
from trtdist.topology.model import ServerSection
from trtdist.topology.nodes import at

__all__ = ["parallel_rules"]


def parallel_rules(case: Case) -> None:
    """Heads, layers and experts that the sizes of a server do not divide."""
    for key, section in case.sections():
        _experts(case, key, section)
        if case.model is not None:
            _heads(case, key, section, case.model)
            _layers(case, key, section, case.model)


def _heads(case: Case, key: str, section: ServerSection, model: ModelFacts) -> None:
    size, where = section.tensor_parallel_size, at(case.root, (key, "tensor_parallel_size"))
    # With attention data parallelism each rank has all heads.
    if size == 1 or not model.heads or section.engine_args.get("enable_attention_dp") is True:
        return
    if model.heads % size:
        case.error(
            "TRT220",
            f"{key}: {size} ranks cannot share the model's {model.heads} attention heads evenly; "
            f"{_divisors(model.heads, size)}",
            where,
        )
    elif not model.latent and model.kv_heads % size and size % model.kv_heads:
        case.error(
            "TRT220",
            f"{key}: {size} ranks can neither share nor repeat the model's {model.kv_heads} KV heads evenly; "
            f"{_divisors(model.kv_heads, size)}",
            where,
        )


def _divisors(number: int, near: int) -> str:
    lower = max(size for size in range(1, near + 1) if number % size == 0)
    higher = next((size for size in range(near, number + 1) if number % size == 0), number)
    return f"tensor_parallel_size can be {lower}" + (f" or {higher}" if higher > near else "")


def _layers(case: Case, key: str, section: ServerSection, model: ModelFacts) -> None:
    if model.layers and section.pipeline_parallel_size > model.layers:
        case.error(
            "TRT221",
            f"{key}: a pipeline of {section.pipeline_parallel_size} is longer than the model's {model.layers} layers",
            at(case.root, (key, "pipeline_parallel_size")),
        )


def _experts(case: Case, key: str, section: ServerSection) -> None:
    """Expert and MoE tensor parallelism divide the ranks of a server among themselves; they add none."""
    sizes = {name: _size(section, name) for name in ("moe_expert_parallel_size", "moe_tensor_parallel_size")}
    ranks = section.tensor_parallel_size * section.context_parallel_size
    for name, size in sizes.items():
        if size and ranks % size:
            case.error(
                "TRT222",
                f"{key}: {name} {size} does not divide the {ranks} ranks that share a layer",
                at(case.root, (key, name)),
            )
            return
    experts = sizes["moe_expert_parallel_size"]
    if case.model is not None and case.model.experts and experts > case.model.experts:
        case.error(
            "TRT222",
            f"{key}: moe_expert_parallel_size {experts} is more than the model's {case.model.experts} experts",
            at(case.root, (key, "moe_expert_parallel_size")),
        )
    # Sizes of -1 leave the choice to the engine.
    if sizes["moe_tensor_parallel_size"] and experts * sizes["moe_tensor_parallel_size"] > ranks:
        case.error(
            "TRT222",
            f"{key}: moe_expert_parallel_size x moe_tensor_parallel_size is more than the {ranks} ranks of a layer",
            at(case.root, (key, "moe_expert_parallel_size")),
        )


def _size(section: ServerSection, name: str) -> int:
    value: Any = section.engine_args.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
