"""What a model's own config.json says of its size. Pure: somebody else reads the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ModelFacts"]

_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8_e4m3fn": 1.0, "fp8": 1.0, "nvfp4": 0.5}


@dataclass(frozen=True)
class ModelFacts:
    """Sizes by the names of Hugging Face's `config.json`; 0 for what it does not say.

    `latent` is the width of a compressed KV cache (`kv_lora_rank` + `qk_rope_head_dim`), which all heads share.
    `weight_bytes` is what the files of weights hold, 0 when unknown; `element_bytes` the size of an activation.
    """

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    latent: int
    experts: int
    weight_bytes: int
    element_bytes: float

    @staticmethod
    def of(config: Mapping[str, Any], weight_bytes: int = 0) -> ModelFacts:
        """The facts of a configuration; a model of several parts is judged by the one that writes text."""
        inner = config.get("text_config") or config.get("llm_config")
        if isinstance(inner, Mapping):
            config = {**config, **inner}
        heads = _count(config, "num_attention_heads", "n_head")
        hidden = _count(config, "hidden_size", "n_embd")
        rank = _count(config, "kv_lora_rank")
        return ModelFacts(
            layers=_count(config, "num_hidden_layers", "n_layer"),
            heads=heads,
            kv_heads=_count(config, "num_key_value_heads") or heads,
            head_size=_count(config, "head_dim") or (hidden // heads if heads else 0),
            latent=rank + _count(config, "qk_rope_head_dim") if rank else 0,
            experts=_count(config, "n_routed_experts", "num_local_experts", "num_experts"),
            weight_bytes=weight_bytes,
            element_bytes=_BYTES.get(str(config.get("torch_dtype") or config.get("dtype")), 2.0),
        )

    def kv_bytes_per_token(self, tensor: int, pipeline: int, dtype: str) -> float:
        """Bytes that one token takes in the KV cache of one rank, `tensor` being how many ranks share the heads."""
        size = _BYTES.get(dtype, self.element_bytes)
        layers = -(-self.layers // pipeline)
        if self.latent:
            return self.latent * layers * size
        return 2 * max(1, -(-self.kv_heads // tensor)) * self.head_size * layers * size


def _count(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    return 0
