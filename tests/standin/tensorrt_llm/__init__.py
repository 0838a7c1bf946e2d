"""A stand-in for TensorRT-LLM: see ../README.md."""

from __future__ import annotations

from tensorrt_llm.llmapi.llm import LLM
from tensorrt_llm.sampling_params import SamplingParams
from tensorrt_llm.version import __version__

__all__ = ["LLM", "SamplingParams", "__version__"]

# tensorrt_llm/__init__.py, which ends with this line.
print(f"[TensorRT-LLM] TensorRT-LLM version: {__version__}", flush=True)
