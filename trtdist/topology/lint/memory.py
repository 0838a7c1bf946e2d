"""An estimate of what fits into the memory of a GPU: weights, and the tokens that the KV cache can hold.

The KV cache takes `free_gpu_memory_fraction` of what is free after the model is loaded (`KvCacheConfig`). Activations,
CUDA graphs and the CUDA context are not counted, so the real number is smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trtdist.topology.lint.case import SERVER_KEYS, Case
from trtdist.topology.lint.model_facts import ModelFacts
from trtdist.topology.model import ServerSection, Topology
from trtdist.topology.nodes import at

__all__ = ["Estimate", "estimates", "memory_rules"]

_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_GIB = float(1 << 30)


@dataclass(frozen=True)
class Estimate:
    """What one rank of a server section has room for, in bytes; `tokens` is None when a token's size is not known."""

    key: str
    memory: float
    weights: float
    fraction: float
    token: float

    @property
    def cache(self) -> float:
        """Bytes of the KV cache."""
        return (self.memory - self.weights) * self.fraction

    @property
    def tokens(self) -> int | None:
        """How many tokens it holds."""
        return int(self.cache / self.token) if self.token else None

    def __str__(self) -> str:
        return (
            f"{self.cache / _GIB:.1f} GiB: {self.fraction:g} of {self.memory / _GIB:.1f} GiB less "
            f"{self.weights / _GIB:.1f} GiB of weights, {self.token / 1024:.0f} KiB a token"
        )


def estimates(topology: Topology, model: ModelFacts | None) -> Iterator[Estimate]:
    """The estimate of each server section; none where the size of a GPU or of the weights is not known."""
    memory = _bytes(topology.slurm.gpu_memory)
    if memory and model is not None and model.weight_bytes:
        for role, section in topology.sections:
            weights = model.weight_bytes / section.world_size
            token = _token(section, model)
            yield Estimate(SERVER_KEYS[role], memory, weights, section.memory_fraction, token)


def memory_rules(case: Case) -> None:
    """Weights that do not fit, and a KV cache too small for one sequence; only where both sizes are known."""
    sections = dict(case.sections())
    for estimate in estimates(case.topology, case.model):
        key, section = estimate.key, sections[estimate.key]
        longest = section.engine_args.get("max_seq_len")
        if estimate.weights >= estimate.memory:
            case.error(
                "TRT223",
                f"{key}: each of {section.world_size} ranks holds at least {estimate.weights / _GIB:.1f} GiB of "
                f"weights, and a GPU has {estimate.memory / _GIB:.1f} GiB (slurm.gpu_memory); raise "
                "tensor_parallel_size or pipeline_parallel_size",
                at(case.root, (key, "tensor_parallel_size")),
            )
        elif estimate.tokens is not None and isinstance(longest, int) and estimate.tokens < longest:
            case.warning(
                "TRT224",
                f"{key}: the KV cache can hold about {estimate.tokens:,} tokens, less than one sequence of max_seq_len "
                f"{longest:,} ({estimate})",
                at(case.root, (key, "kv_cache_config", "free_gpu_memory_fraction")),
            )


def _token(section: ServerSection, model: ModelFacts) -> float:
    arguments = section.engine_args
    shared = 1 if arguments.get("enable_attention_dp") is True else section.tensor_parallel_size
    dtype = str(arguments["kv_cache_config"].get("dtype", "auto"))
    return model.kv_bytes_per_token(shared, section.pipeline_parallel_size, dtype)


def _bytes(size: str | int | None) -> int:
    """Bytes of a size such as 80G; numbers alone are megabytes, as Slurm counts."""
    text = str(size or 0).upper()
    unit = text[-1] if text[-1].isalpha() else ""
    return int(text.removesuffix(unit)) * _UNITS[unit]
