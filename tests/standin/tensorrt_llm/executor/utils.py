"""tensorrt_llm/executor/utils.py."""

from __future__ import annotations


class RequestError(RuntimeError):
    """The error raised when the request is failed."""
