"""An estimate of what fits into the memory of a GPU: weights, and the tokens that the KV cache can hold.

The KV cache takes `free_gpu_memory_fraction` of what is free after the model is loaded (`KvCacheConfig`). Activations,
CUDA graphs and the CUDA context are not counted, so the real number is smaller.
"""

from __future__ import annotations

from trtdist.topology.lint.case import Case
from trtdist.topology.lint.model_facts import ModelFacts
from trtdist.topology.model import ServerSection
from trtdist.topology.nodes import at

__all__ = ["memory_rules"]

_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_GIB = float(1 << 30)


def memory_rules(case: Case) -> None:
    """Weights that do not fit, and a KV cache too small for one sequence; only where both sizes are known."""
    memory, model = _bytes(case.topology.slurm.gpu_memory), case.model
    if memory and model is not None and model.weight_bytes:
        for key, section in case.sections():
            _fits(case, key, section, model, memory)


def _bytes(size: str | int | None) -> int:
    """Bytes of a size such as 80G; numbers alone are megabytes, as Slurm counts."""
    text = str(size or 0).upper()
    unit = text[-1] if text[-1].isalpha() else ""
    return int(text.removesuffix(unit)) * _UNITS[unit]


def _fits(case: Case, key: str, section: ServerSection, model: ModelFacts, memory: int) -> None:
    weights = model.weight_bytes / section.world_size
    if weights >= memory:
        case.error(
            "TRT223",
            f"{key}: each of {section.world_size} ranks holds at least {weights / _GIB:.1f} GiB of weights, and a GPU "
            f"has {memory / _GIB:.1f} GiB (slurm.gpu_memory); raise tensor_parallel_size or pipeline_parallel_size",
            at(case.root, (key, "tensor_parallel_size")),
        )
        return
    arguments = section.engine_args
    shared = 1 if arguments.get("enable_attention_dp") is True else section.tensor_parallel_size
    dtype = str(arguments["kv_cache_config"].get("dtype", "auto"))
    token = model.kv_bytes_per_token(shared, section.pipeline_parallel_size, dtype)
    cache = (memory - weights) * section.memory_fraction
    longest = arguments.get("max_seq_len")
    if token and isinstance(longest, int) and cache / token < longest:
        case.warning(
            "TRT224",
            f"{key}: the KV cache can hold about {int(cache / token):,} tokens, less than one sequence of max_seq_len "
            f"{longest:,} ({cache / _GIB:.1f} GiB: {section.memory_fraction:g} of {memory / _GIB:.1f} GiB less "
            f"{weights / _GIB:.1f} GiB of weights, {token / 1024:.0f} KiB a token)",
            at(case.root, (key, "kv_cache_config", "free_gpu_memory_fraction")),
        )
