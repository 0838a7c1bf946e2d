"""The opaque state of a context-only answer as it travels: a line of JSON, then TensorRT-LLM's own bytes.

TensorRT-LLM's `DisaggregatedParams` (`tensorrt_llm/disaggregated_params.py`) has grown fields that a generation server
needs beside `opaque_state`; they travel in the line. Nothing here is unpickled, and what TensorRT-LLM makes of its own
bytes it does in C++ (`ContextPhaseParams`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trtdist.engines.base import EngineError

__all__ = ["MORE_FIELDS", "Handle", "parse"]

_VERSION = 1
_MAX_BYTES = 1 << 20
_MAX_LIST = 4096

# Whole numbers, words, or lists of them; the rest of DisaggregatedParams is for logits and images, which are not asked.
MORE_FIELDS = ("draft_tokens", "disagg_request_id", "ctx_dp_rank", "ctx_info_endpoint")


@dataclass(frozen=True)
class Handle:
    """The KV cache that `server` keeps, and by which `transport` and `release` of TensorRT-LLM it is to be fetched."""

    server: str
    release: str
    transport: str
    state: bytes
    more: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As the bytes that travel; EngineError when they are too many."""
        line = {"version": _VERSION, "server": self.server, "release": self.release, "transport": self.transport}
        data = json.dumps({**line, "more": dict(self.more)}, separators=(",", ":")).encode() + b"\n" + self.state
        if len(data) > _MAX_BYTES:
            raise EngineError(f"the state of the KV cache has {len(data)} bytes, more than {_MAX_BYTES}")
        return data


def parse(data: bytes) -> Handle:
    """Read what came over the network; EngineError when it is not what `encode` gives."""
    if len(data) > _MAX_BYTES:
        raise EngineError(f"the state of the context server has {len(data)} bytes, more than {_MAX_BYTES}")
    line, newline, state = data.partition(b"\n")
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        raise _damaged() from None
    names = {"version", "server", "release", "transport", "more"}
    if not newline or not isinstance(raw, dict) or set(raw) != names or raw["version"] != _VERSION:
        raise _damaged()
    words = [raw[name] for name in ("server", "release", "transport")]
    more = raw["more"]
    if not all(isinstance(word, str) and len(word) <= 128 for word in words) or not isinstance(more, dict):
        raise _damaged()
    if not all(name in MORE_FIELDS and _plain(value) for name, value in more.items()):
        raise _damaged()
    return Handle(words[0], words[1], words[2], state, more)


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= _MAX_LIST and all(_plain(item) and not isinstance(item, list) for item in value)
    return isinstance(value, (int, str)) and not isinstance(value, bool) and len(str(value)) <= 1024


def _damaged() -> EngineError:
    return EngineError("the state of the context server is damaged, or from another version of trtdist")
