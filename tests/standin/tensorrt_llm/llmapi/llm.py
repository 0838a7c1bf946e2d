"""tensorrt_llm/llmapi/llm.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tensorrt_llm import language
from tensorrt_llm.executor.proxy import GenerationExecutorProxy
from tensorrt_llm.llmapi import llm_args
from tensorrt_llm.llmapi.mpi_session import external_mpi_comm_available
from tensorrt_llm.logger import logger
from tensorrt_llm.sampling_params import SamplingParams
from tensorrt_llm.version import NUMBER


def _node_download_hf_model(model: str, revision: str | None = None) -> str:
    """llmapi/llm_utils.py: what every rank is asked for before its worker starts; here nothing is downloaded."""
    return f"/hub/{model}"


class BaseLLM:
    """The class behind `LLM`."""

    def __init__(
        self,
        model: str | Path,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            logger.info("Using LLM with PyTorch backend")
            self.mpi_session = kwargs.pop("_mpi_session", None)
            self.args = self._arguments(
                model=model,
                tokenizer=tokenizer,
                tokenizer_mode=tokenizer_mode,
                skip_tokenizer_init=skip_tokenizer_init,
                trust_remote_code=trust_remote_code,
                tensor_parallel_size=tensor_parallel_size,
                dtype=dtype,
                revision=revision,
                tokenizer_revision=tokenizer_revision,
                **kwargs,
            )
        except Exception as e:
            logger.error(f"Failed to parse the arguments for the LLM constructor: {e}")
            raise e
        names = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
        world_size = 1
        for name in names:
            world_size *= getattr(self.args, name, None) or 1
        if world_size > 1:
            logger.info(f"start MpiSession with {world_size} workers")
            if torch.cuda.device_count() < 1:
                raise RuntimeError(f"Only 0 GPUs are available, but {world_size} are required.")
        # Up to 1.2 the session stays in the arguments, which every rank is sent; since then it belongs to the caller.
        self.args.mpi_session = self.mpi_session if NUMBER < (1, 3) else None
        self._owns_mpi_session = NUMBER < (1, 3)
        if external_mpi_comm_available(world_size) and world_size > 1:
            self._hf_model_dir = self.mpi_session.submit_sync(_node_download_hf_model, model=str(self.args.model))[0]
            assert str(self._hf_model_dir).startswith("/"), self._hf_model_dir
        self.tokenizer = language.TransformersTokenizer()
        self._told = 0
        try:
            session = self.mpi_session if external_mpi_comm_available(world_size) else None
            self._executor: GenerationExecutorProxy | None = GenerationExecutorProxy(
                self.args, world_size, session, self.tokenizer
            )
        except Exception:
            if self.mpi_session is not None and self._owns_mpi_session:
                self.mpi_session.shutdown()
            raise

    def _arguments(self, **kwargs: Any) -> Any:
        kind = llm_args.TorchLlmArgs if NUMBER >= (0, 20) else llm_args.LlmArgs
        known = {*kind.model_fields, "backend", "pytorch_backend_config"}
        for key in kwargs:
            if key not in known:
                raise ValueError(f"{type(self).__name__} got invalid argument: {key}")
        return kind(**{key: value for key, value in kwargs.items() if key in kind.model_fields})

    def generate_async(
        self,
        inputs: str | list[int],
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
    ) -> Any:
        """Submit one request."""
        if self._executor is None or self._executor.is_shutdown():
            raise RuntimeError("LLM is shutting down")
        prompt = self.tokenizer.encode(inputs) if isinstance(inputs, str) else list(inputs)
        most = self.args.max_num_tokens or 8192
        is_gen_only = disaggregated_params is not None and disaggregated_params.request_type == "generation_only"
        if len(prompt) > most and not is_gen_only:
            raise ValueError(
                f"The sum of prompt length ({float(len(prompt))}), query length (0) should not exceed max_num_tokens"
                f" ({most})"
            )
        return self._executor.submit(prompt, sampling_params or SamplingParams(), streaming, disaggregated_params)

    async def get_kv_cache_events_async(self, timeout: float | None = 2) -> Any:
        """The events since the last time; none before a request was served, and none for ever without a buffer.

        tensorrt_llm/_utils.py `KVCacheEventSerializer`; `publisher.py` of ai-dynamo/dynamo.
        """
        kept = self.args.kv_cache_config
        while self._executor is not None and self._executor.served and getattr(kept, "event_buffer_max_size", 0):
            number, self._told = self._told, self._told + 1
            if number:
                return
            blocks = {"type": "created", "num_blocks_per_cache_level": [100, 0]}
            yield {"event_id": number, "data": blocks, "window_size": 2048}

    def shutdown(self) -> None:
        """End the executor and the session."""
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None
        if self.mpi_session is not None and self._owns_mpi_session:
            self.mpi_session.shutdown()
            self.mpi_session = None


class TorchLLM(BaseLLM):
    """The PyTorch engine."""

    def _check_health(self) -> bool:
        return self._executor is not None and not self._executor.is_shutdown()


if NUMBER < (1, 0):
    # No health was to be asked for, and `tensorrt_llm.LLM` was the TensorRT engine.
    del TorchLLM._check_health


class LLM(TorchLLM if NUMBER >= (1, 0) else BaseLLM):
    """`tensorrt_llm.LLM`: PyTorch from 1.0 on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if NUMBER < (1, 0):
            raise RuntimeError("this is the TensorRT engine, which the stand-in does not imitate")
        super().__init__(*args, **kwargs)
