"""tensorrt_llm/llmapi/llm_args.py: which arguments a release takes. From 1.0 on the models refuse unknown keys."""

from __future__ import annotations

from typing import Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, create_model

from tensorrt_llm.version import NUMBER

_STRICT = ConfigDict(extra="forbid" if NUMBER >= (1, 0) else "ignore", arbitrary_types_allowed=True)


class KvCacheConfig(BaseModel):
    """KV cache of one server."""

    model_config = _STRICT

    free_gpu_memory_fraction: float | None = None
    max_tokens: int | None = None
    enable_block_reuse: bool = True
    event_buffer_max_size: int = 0
    host_cache_size: int | None = None
    dtype: str = "auto"
    tokens_per_block: int = 32


def _transceiver() -> Any:
    fields: dict[str, Any] = {"max_num_tokens": (Optional[int], None)}
    if NUMBER >= (0, 21):
        backends = Literal["default", "ucx", "nixl", "mpi"]
        if NUMBER >= (1, 0):
            backends = Literal["DEFAULT", "UCX", "NIXL", "MPI"]
        if NUMBER >= (1, 2):
            backends = Literal["DEFAULT", "UCX", "NIXL", "MOONCAKE", "MPI"]
        fields = {"backend": (Optional[backends], None), "max_tokens_in_buffer": (Optional[int], None)}
    if NUMBER >= (1, 1):
        # Pull request 12249, of March 2026, made it 60 s.
        fields["kv_transfer_timeout_ms"] = (Optional[int], 60000 if NUMBER >= (1, 3) else None)
    if NUMBER >= (1, 3):
        usual = "PYTHON" if NUMBER >= (1, 4) else "auto"
        fields["transceiver_runtime"] = (Optional[Literal["CPP", "PYTHON", "auto"]], usual)
    return create_model("CacheTransceiverConfig", __config__=_STRICT, **fields)


if NUMBER >= (0, 20):
    CacheTransceiverConfig = _transceiver()

_COMMON = [
    "model",
    "tokenizer",
    "tokenizer_mode",
    "skip_tokenizer_init",
    "trust_remote_code",
    "tensor_parallel_size",
    "dtype",
    "revision",
    "tokenizer_revision",
    "pipeline_parallel_size",
    "gpus_per_node",
    "moe_expert_parallel_size",
    "max_batch_size",
    "max_num_tokens",
    "max_seq_len",
    "max_beam_width",
    "enable_chunked_prefill",
    "enable_attention_dp",
    "speculative_config",
    "stream_interval",
    "mpi_session",
]
_SINCE = {
    "cache_transceiver_config": (0, 20),
    "disable_overlap_scheduler": (0, 20),
    "cuda_graph_config": (0, 21),
    "moe_config": (0, 21),
    "context_parallel_size": (1, 0),
    "print_iter_log": (0, 20),
    "return_perf_metrics": (1, 0),
}
_NESTED: dict[str, Any] = {"kv_cache_config": KvCacheConfig}
if NUMBER >= (0, 20):
    _NESTED["cache_transceiver_config"] = CacheTransceiverConfig


def _arguments(name: str) -> Any:
    names = [*_COMMON, "kv_cache_config", *(key for key, since in _SINCE.items() if since <= NUMBER)]
    fields: dict[str, Any] = {key: (Optional[_NESTED.get(key, Any)], None) for key in names}
    return create_model(name, __config__=_STRICT, **fields)


# TorchLlmArgs came with 0.20.
if NUMBER >= (0, 20):
    TorchLlmArgs = _arguments("TorchLlmArgs")
else:
    LlmArgs = _arguments("LlmArgs")
