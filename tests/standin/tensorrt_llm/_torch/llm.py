"""tensorrt_llm/_torch/llm.py before 1.0: the LLM whose backend is PyTorch."""

from __future__ import annotations

from tensorrt_llm.llmapi.llm import TorchLLM as LLM

__all__ = ["LLM"]
