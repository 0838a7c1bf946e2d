"""How much of earlier prompts an engine's KV cache has room for, by the event that tells of its creation.

`KvCacheConfig.event_buffer_max_size` turns the events on, and `LLM.get_kv_cache_events_async(timeout)` gives them
(docs 1.0 and later, llm-api/reference; `tensorrt_llm/_utils.py`, `KVCacheEventSerializer`): the first ones are
`created`, with the blocks of each level, GPU and host. None come before a request was served
(ai-dynamo/dynamo, `components/src/dynamo/trtllm/publisher.py`). In releases before 1.0 they could fail the request that
caused them (issue 4666).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

__all__ = ["BUFFER", "Room"]

# What `event_buffer_max_size` is set to: as in TensorRT-LLM's own example (llm_inference_kv_events.py).
BUFFER = 1024
_WAIT_S, _PAUSE_S = 5.0, 1.0


class Room:
    """Reads the events of an engine, all of them: nobody else does, and they would pile up.

    Of several sizes of windows the largest counts, which the layers with full attention have; of several ranks with
    caches of their own (attention DP) the smallest, since a prompt is in only one of them.
    """

    def __init__(self, llm: Any, tokens_per_block: int) -> None:
        self._read = getattr(llm, "get_kv_cache_events_async", None)
        self._each = tokens_per_block
        self._created: dict[int, int] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def tokens(self) -> int:
        """How many tokens it has room for, 0 while that is not known."""
        return self._created[max(self._created)] * self._each if self._created else 0

    def begin(self) -> None:
        """A request was served, so there may be events from now on."""
        if self._task is None and self._read is not None:
            self._task = asyncio.ensure_future(self._watch())

    def end(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        assert self._read is not None
        while True:
            try:
                async for event in self._read(timeout=_WAIT_S):
                    # Older releases give all events of one step together.
                    for each in event if isinstance(event, list) else [event]:
                        self._take(each)
            except IndexError:
                # As in `get_kv_cache_events` of tensorrt_llm/serve/openai_server.py: there is none left.
                pass
            except RuntimeError:
                # The engine gives none, or has died, which others notice.
                return
            await asyncio.sleep(_PAUSE_S)

    def _take(self, event: Any) -> None:
        data = event.get("data") if isinstance(event, Mapping) else None
        if not isinstance(data, Mapping) or data.get("type") != "created":
            return
        blocks, window = sum(data["num_blocks_per_cache_level"]), int(event.get("window_size") or 0)
        self._created[window] = min(blocks, self._created.get(window, blocks))
