"""Streams of OpenAI's API: events to what counts for a measurement.

Most events only bring text. They are told by three looks at their bytes, so that the client costs little beside the
servers that it measures; the others are read as JSON.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["MAX_EVENT", "OpenAiAnswer", "error_sentence"]

MAX_EVENT = 8 * 1024 * 1024

# Within a JSON text the quotes are escaped, so this finds keys only.
_HAS_TEXT = re.compile(rb'"(?:content|reasoning_content|text)" ?: ?"(?!")').search
_HAS_MORE = re.compile(rb'"(?:finish_reason" ?: ?"|usage" ?: ?\{|error" ?: ?[{"])').search


class OpenAiAnswer:
    """What an answer brought so far; `done` is set by the `[DONE]` that ends every stream."""

    def __init__(self) -> None:
        self.pieces: list[float] = []
        self.usage: tuple[int, int] | None = None
        self.finish_reason = ""
        self.error = ""
        self.done = False

    def event(self, data: bytes, now: float) -> None:
        """Take the data of an event that arrived at `now`."""
        if self.done:
            self.error = self.error or "something came after [DONE]"
        elif _HAS_TEXT(data) and not _HAS_MORE(data):
            self.pieces.append(now)
        elif data == b"[DONE]":
            self.done = True
        else:
            self._read(data, now)

    def _read(self, data: bytes, now: float) -> None:
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError):
            raw = None
        if not isinstance(raw, dict):
            self.error = self.error or "an event is no JSON object"
            return
        if raw.get("error"):
            self.error = self.error or error_sentence(raw["error"])
        usage = raw.get("usage")
        if isinstance(usage, dict):
            self._count(usage)
        choices = raw.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                self._choose(choice, now)

    def _choose(self, choice: dict[str, Any], now: float) -> None:
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        if delta.get("content") or delta.get("reasoning_content") or choice.get("text"):
            self.pieces.append(now)
        self.finish_reason = str(choice.get("finish_reason") or self.finish_reason)

    def _count(self, usage: dict[str, Any]) -> None:
        found = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        if type(found[0]) is int and type(found[1]) is int:
            self.usage = (found[0], found[1])


def error_sentence(error: object) -> str:
    """What an error of OpenAI's shape says, on one line of at most 200 characters."""
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message).split())[:200] or "an error without a message"
