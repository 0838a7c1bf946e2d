"""tensorrt_llm/llmapi/llm_utils.py."""

from __future__ import annotations

from tensorrt_llm.llmapi.llm_args import KvCacheConfig


def update_llm_args_with_extra_dict(llm_args: dict, llm_args_dict: dict, extra_llm_api_options: str | None = None):
    """What trtllm-serve does with a YAML file of options: mappings become their classes, the file wins."""
    if isinstance(llm_args_dict.get("kv_cache_config"), dict):
        llm_args_dict["kv_cache_config"] = KvCacheConfig(**llm_args_dict["kv_cache_config"])
    return {**llm_args, **llm_args_dict}
