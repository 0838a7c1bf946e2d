"""TensorRT-LLM through its LLM API: one server over the ranks that the launch lines started.

The modules of this room import `tensorrt_llm`, `torch` and `mpi4py` only inside of functions: in that order of need, a
rank takes its GPU, then starts MPI, then loads the engine. What they assume of TensorRT-LLM, and where that is written
down, is in docs/tensorrt-llm-support.md.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtdist.engines.base import Engine, EngineConfig

__all__ = ["create"]


def create(config: EngineConfig) -> Engine:
    """One rank of a TensorRT-LLM server; ImportError when there is no TensorRT-LLM here."""
    if importlib.util.find_spec("tensorrt_llm") is None:
        raise ImportError("there is no tensorrt_llm; use an image that has it (container.image)")
    from trtdist.engines.tensorrt_llm.engine import TensorRtLlmEngine

    return TensorRtLlmEngine(config)
