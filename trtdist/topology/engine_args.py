"""Names of TensorRT-LLM's engine arguments, so that a typing error is told from an argument.

Sources: the fields of `BaseLlmArgs`, `TorchLlmArgs` and `KvCacheConfig` in `tensorrt_llm/llmapi/llm_args.py`, and, for
the names of February and March 2025, the `model.json` of the original example. All releases from 0.17 to 1.4 are
joined here: which release knows which name is another question than whether it is a name at all.
"""

from __future__ import annotations

__all__ = ["KV_CACHE_KEYS", "LLM_KEYS", "PLACEMENT_KEYS", "RENAMED_KEYS"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What trtdist plans and sets itself; never passed through.
PLACEMENT_KEYS = frozenset({"tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"})

LLM_KEYS = _names(
    """
    allreduce_strategy attention_dp_config attn_backend backend batch_wait_max_tokens_ratio batch_wait_timeout_iters
    batch_wait_timeout_ms batching_type build_config cache_transceiver_config calib_config checkpoint_format
    checkpoint_loader cp_config cuda_graph_batch_sizes cuda_graph_config cuda_graph_max_batch_size
    cuda_graph_padding_enabled custom_tokenizer decoding_config disable_flashinfer_sampling
    disable_overlap_scheduler dtype embedding_parallel_mode enable_attention_dp enable_autotuner enable_build_cache
    enable_cache_transceiver enable_chunked_prefill enable_iter_perf_stats enable_iter_req_stats
    enable_layerwise_nvtx_marker enable_lm_head_tp_in_adp enable_lora enable_min_latency enable_mixed_sampler
    enable_overlap_scheduler
    enable_prompt_adapter enable_prompt_embeds enable_sleep enable_tqdm enable_trtllm_decoder enable_trtllm_sampler
    env_overrides extended_runtime_perf_knob_config fail_fast_on_attention_window_too_large fast_build
    force_dynamic_quantization garbage_collection_gen0_threshold gather_generation_logits gpus_per_node
    guided_decoding_backend iter_perf_stats_interval iter_stats_max_iterations kv_cache_dtype kv_connector_config
    layer_wise_benchmarks_config load_format lora_config max_batch_size max_beam_width max_cpu_loras max_input_len
    max_lora_rank max_loras max_num_tokens max_prompt_adapter_token max_seq_len max_stats_len mm_encoder_only
    model_kwargs moe_backend moe_cluster_parallel_size moe_config moe_expert_parallel_size moe_load_balancer
    moe_max_num_tokens moe_tensor_parallel_size normalize_log_probs num_nextn_predict_layers num_postprocess_workers
    nvfp4_gemm_config orchestrator_type otlp_traces_endpoint peft_cache_config perf_metrics_max_requests
    postprocess_tokenizer_dir pp_partition print_iter_log prompt_adapter_config pytorch_backend_config quant_config
    ray_placement_config ray_worker_extension_cls reasoning_parser request_stats_max_iterations return_perf_metrics
    revision sampler_force_async_worker sampler_type scheduler_config skip_tokenizer_init sm_disagg_config
    sparse_attention_config speculative_config speculative_model stream_interval tokenizer tokenizer_mode
    tokenizer_model tokenizer_revision torch_compile_config torch_compile_enabled torch_compile_fullgraph
    torch_compile_inductor_enabled torch_compile_piecewise_cuda_graph trust_remote_code use_cuda_graph
    use_cute_dsl_blockscaling_bmm use_cute_dsl_blockscaling_mm use_kv_cache workspace
    """
)

KV_CACHE_KEYS = _names(
    """
    attention_dp_events_gather_period_ms avg_seq_len copy_on_partial_reuse cross_kv_cache_fraction dtype
    enable_block_reuse enable_partial_reuse event_buffer_max_size free_gpu_memory_fraction host_cache_size
    iteration_stats_interval mamba_ssm_cache_dtype max_attention_window max_gpu_total_bytes max_tokens
    max_util_for_resume onboard_blocks secondary_offload_min_priority sink_token_length tokens_per_block
    use_kv_cache_manager_v2 use_uvm
    """
)

# Arguments that today's releases know by another name; the old one is passed on, with a warning.
RENAMED_KEYS = {
    "cuda_graph_batch_sizes": "cuda_graph_config.batch_sizes",
    "cuda_graph_max_batch_size": "cuda_graph_config.max_batch_size",
    "cuda_graph_padding_enabled": "cuda_graph_config.enable_padding",
    "enable_overlap_scheduler": "disable_overlap_scheduler, with the opposite meaning",
    "kv_cache_dtype": "kv_cache_config.dtype",
    "moe_backend": "moe_config.backend",
    "num_nextn_predict_layers": "speculative_config.num_nextn_predict_layers",
    "pytorch_backend_config": "its keys, directly in the server section",
    "use_cuda_graph": "cuda_graph_config",
}
