"""The part of PyTorch that trtdist and the stand-in of TensorRT-LLM use. No tensor, no GPU."""

from __future__ import annotations

from torch import cuda

__all__ = ["OutOfMemoryError", "__version__", "cuda"]

__version__ = "0+stand-in"

# torch/__init__.py: torch.OutOfMemoryError is what torch.cuda.OutOfMemoryError is another name of.
OutOfMemoryError = cuda.OutOfMemoryError
