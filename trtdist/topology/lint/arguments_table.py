"""Which release of TensorRT-LLM takes which engine argument.

A row says what is known and no more: `not_in` is the newest release that surely refuses the argument because it does
not have it yet, `first` the first that surely has it, `last` the last that surely has it, and `gone` the first that
surely refuses it again, None where none is known to. Between two of them releases are in doubt, and a problem there is
a warning.

Sources are files of github.com/NVIDIA/TensorRT-LLM with the commit that was read, pull requests of it, and
configuration files made for one release (aiconfigurator 095f58a has a template for each, named
extra_engine_args.VERSION.yaml.j2).
Pydantic models refuse unknown keys from 1.0 on (StrictBaseModel); before, keyword arguments of `LLM` were refused.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ARGUMENTS", "BACKENDS", "NESTED", "Argument", "Backend"]

Minor = tuple[int, int]

_REFERENCE_1_0 = "tests/unittest/api_stability/references/llm.yaml at 000a01de (candidate of 1.0, by its contents)"
_REFERENCE_1_1 = "tests/unittest/api_stability/references/llm.yaml at ea35fd67 (1.1 or 1.2, by its contents)"
_LOAD_BALANCE = "tests/integration/defs/disaggregated/test_configs/disagg_config_load_balance.yaml at 0e7e6be2"
_EMPTY_BATCH = "disagg_config_deepseek_v3_lite_empty_batch.yaml of the integration tests at 171b71d4 (1.3 candidate)"
_EXAMPLE = "disagg_config.yaml among the disaggregated examples at 1cd0e2f0"
_TRANSCEIVER = "CacheTransceiverConfig in tensorrt_llm/llmapi/llm_args.py of 1.3.0rc27"
_TRANSCEIVER_1_4 = "CacheTransceiverConfig in tensorrt_llm/llmapi/llm_args.py of 1.4.0rc1"
_PR_5234 = "pull request 5234 (cache_transceiver_config.backend and max_tokens_in_buffer)"


@dataclass(frozen=True)
class Argument:
    """One argument, by its path with dots: the releases that have it, what else to write, and where that is known."""

    path: str
    source: str
    not_in: Minor | None = None
    first: Minor | None = None
    last: Minor | None = None
    gone: Minor | None = None
    instead: str = ""


@dataclass(frozen=True)
class Backend:
    """A value of `cache_transceiver_config.backend`."""

    name: str
    source: str
    not_in: Minor | None = None
    first: Minor | None = None


def _gone(path: str, last: Minor, gone: Minor | None, instead: str, source: str) -> Argument:
    return Argument(path, source, last=last, gone=gone, instead=instead)


def _new(path: str, not_in: Minor, first: Minor, source: str, instead: str = "") -> Argument:
    return Argument(path, source, not_in=not_in, first=first, instead=instead)


ARGUMENTS = (
    _gone("pytorch_backend_config", (0, 19), (1, 0), "its keys, directly in the server section", _LOAD_BALANCE),
    _gone("enable_overlap_scheduler", (0, 19), (1, 0), "disable_overlap_scheduler (the opposite)", _REFERENCE_1_0),
    _gone("use_cuda_graph", (0, 20), (1, 0), "cuda_graph_config (null turns graphs off)", _REFERENCE_1_0),
    _gone("cuda_graph_batch_sizes", (0, 20), (1, 0), "cuda_graph_config.batch_sizes", _REFERENCE_1_0),
    _gone("cuda_graph_max_batch_size", (0, 20), (1, 0), "cuda_graph_config.max_batch_size", _REFERENCE_1_0),
    _gone("cuda_graph_padding_enabled", (0, 20), (1, 0), "cuda_graph_config.enable_padding", _REFERENCE_1_0),
    _gone("moe_backend", (0, 20), (1, 0), "moe_config.backend", _REFERENCE_1_0),
    _gone("moe_max_num_tokens", (0, 20), (1, 0), "moe_config.max_num_tokens", _REFERENCE_1_0),
    _gone("moe_load_balancer", (0, 20), (1, 0), "moe_config.load_balancer", _REFERENCE_1_0),
    _gone("torch_compile_enabled", (0, 20), (1, 0), "torch_compile_config", _REFERENCE_1_0),
    _gone("torch_compile_fullgraph", (0, 20), (1, 0), "torch_compile_config.enable_fullgraph", _REFERENCE_1_0),
    _gone("torch_compile_inductor_enabled", (0, 20), (1, 0), "torch_compile_config.enable_inductor", _REFERENCE_1_0),
    _gone("torch_compile_piecewise_cuda_graph", (0, 20), (1, 0), "torch_compile_config", _REFERENCE_1_0),
    _gone("enable_cache_transceiver", (0, 20), (1, 0), "cache_transceiver_config.backend", _REFERENCE_1_0),
    _gone("kv_cache_dtype", (0, 21), (1, 2), "kv_cache_config.dtype", _REFERENCE_1_1),
    _gone("enable_trtllm_sampler", (0, 21), (1, 2), "sampler_type", _REFERENCE_1_1),
    _gone("enable_mixed_sampler", (1, 0), None, "sampler_type", _REFERENCE_1_1),
    _gone("batching_type", (1, 0), None, "nothing: the PyTorch engine has no such choice", _REFERENCE_1_1),
    _gone("normalize_log_probs", (1, 0), None, "nothing: the PyTorch engine has no such choice", _REFERENCE_1_1),
    _gone("build_config", (1, 3), None, "max_batch_size, max_num_tokens and max_seq_len, directly", _EMPTY_BATCH),
    _new("disable_overlap_scheduler", (0, 18), (0, 20), _EXAMPLE, "pytorch_backend_config.enable_overlap_scheduler"),
    _new("cache_transceiver_config", (0, 18), (0, 20), "pull request 3798", "TRTLLM_USE_UCX_KVCACHE in container.env"),
    _new("cuda_graph_config", (0, 19), (0, 21), _REFERENCE_1_0, "use_cuda_graph"),
    _new("moe_config", (0, 19), (1, 0), _REFERENCE_1_0, "moe_backend"),
    _new("torch_compile_config", (0, 19), (1, 0), _REFERENCE_1_0, "torch_compile_enabled"),
    _new("checkpoint_loader", (0, 20), (1, 0), _REFERENCE_1_0),
    _new("checkpoint_format", (0, 20), (1, 0), _REFERENCE_1_0),
    _new("sampler_type", (0, 21), (1, 1), _REFERENCE_1_1, "enable_trtllm_sampler"),
    _new("attention_dp_config", (0, 20), (1, 1), _REFERENCE_1_1),
    _new("kv_connector_config", (0, 21), (1, 1), _REFERENCE_1_1),
    _new("enable_lm_head_tp_in_adp", (0, 21), (1, 2), _REFERENCE_1_1),
    _new("orchestrator_type", (0, 21), (1, 2), _REFERENCE_1_1),
    _new("sparse_attention_config", (0, 21), (1, 2), _REFERENCE_1_1),
    _new("ray_worker_extension_cls", (0, 21), (1, 2), _REFERENCE_1_1),
    _new("batch_wait_timeout_ms", (0, 21), (1, 1), _REFERENCE_1_1),
    _new("batch_wait_timeout_iters", (0, 21), (1, 1), _REFERENCE_1_1),
    _new("batch_wait_max_tokens_ratio", (0, 21), (1, 1), _REFERENCE_1_1),
    _new("nvfp4_gemm_config", (1, 0), (1, 3), "srt-slurm recipes/trtllm/gb200-fp4 at c88ef73 (1.3 candidates)"),
    _gone("cache_transceiver_config.enable_cache_transceiver", (0, 20), (1, 0), "backend in that section", _EXAMPLE),
    _gone("cache_transceiver_config.max_num_tokens", (0, 20), (1, 0), "max_tokens_in_buffer", _PR_5234),
    _new("cache_transceiver_config.backend", (0, 19), (0, 21), _PR_5234, "TRTLLM_USE_UCX_KVCACHE in container.env"),
    _new("cache_transceiver_config.max_tokens_in_buffer", (0, 19), (0, 21), _PR_5234, "max_num_tokens"),
    _new("cache_transceiver_config.kv_transfer_timeout_ms", (0, 21), (1, 2), _TRANSCEIVER),
    _new("cache_transceiver_config.kv_transfer_sender_future_timeout_ms", (1, 0), (1, 3), _TRANSCEIVER),
    _new("cache_transceiver_config.transceiver_runtime", (1, 1), (1, 3), _TRANSCEIVER),
    _new("cache_transceiver_config.kv_transfer_poll_interval_ms", (1, 1), (1, 3), _TRANSCEIVER),
    _new("cache_transceiver_config.kv_cache_bounce_size_mb", (1, 1), (1, 3), _TRANSCEIVER),
    _new("cache_transceiver_config.enable_pipelined_transfer", (1, 1), (1, 3), _TRANSCEIVER),
    _new("cache_transceiver_config.agent_bounce_buffer_enable", (1, 2), (1, 4), _TRANSCEIVER_1_4),
    _new("cache_transceiver_config.agent_bounce_params", (1, 2), (1, 4), _TRANSCEIVER_1_4),
    _new("kv_cache_config.dtype", (0, 19), (1, 0), "extra_engine_args.1.0.0.yaml.j2", "kv_cache_dtype"),
    _new("kv_cache_config.use_kv_cache_manager_v2", (1, 0), (1, 3), "a decode configuration shipped with 1.4.0rc1"),
    _new("kv_cache_config.avg_seq_len", (1, 1), (1, 4), "a decode configuration shipped with 1.4.0rc1"),
    _new("kv_cache_config.iteration_stats_interval", (1, 1), (1, 4), "a decode configuration shipped with 1.4.0rc1"),
)  # fmt: skip

BACKENDS = (
    Backend("DEFAULT", _TRANSCEIVER),
    Backend("UCX", _TRANSCEIVER),
    Backend("NIXL", _TRANSCEIVER),
    Backend("MPI", _TRANSCEIVER),
    Backend("MOONCAKE", _TRANSCEIVER, not_in=(1, 0), first=(1, 2)),
)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The keys within arguments that are mappings, of all releases together; `kv_cache_config` is checked with the models.
NESTED = {
    "cache_transceiver_config": _names(
        """
        agent_bounce_buffer_enable agent_bounce_params backend enable_cache_transceiver enable_pipelined_transfer
        kv_cache_bounce_size_mb kv_transfer_poll_interval_ms kv_transfer_sender_future_timeout_ms
        kv_transfer_timeout_ms max_num_tokens max_tokens_in_buffer transceiver_runtime
        """
    ),
    "cuda_graph_config": _names(
        "batch_sizes enable_padding max_batch_size max_num_token max_seq_len mode num_tokens seq_lens"
    ),
}
