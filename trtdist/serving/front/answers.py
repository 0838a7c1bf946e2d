"""What goes back: OpenAI's objects for whole answers, and the events of a stream, built once and filled in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Callable

from trtdist.serving.protocol import Chunk

__all__ = ["DONE", "Choice", "Events", "Whole", "error_event"]

DONE = "data: [DONE]\n\n"
# Escapes all but ASCII, so that lone surrogates, which engines can give, stay text that is JSON.
_quoted: Callable[[str], str] = encode_basestring_ascii


class Choice:
    """One answer of a request as it was taken so far."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.finish_reason = ""
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def take(self, chunks: Iterable[Chunk]) -> None:
        """More of it came."""
        for chunk in chunks:
            self.text.append(chunk.text)
            self.counted(chunk)

    def counted(self, chunk: Chunk) -> None:
        """Take down what the last chunk says."""
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason
            self.prompt_tokens = _count(chunk, "prompt_tokens")
            self.completion_tokens = _count(chunk, "completion_tokens")


def _count(chunk: Chunk, name: str) -> int:
    value = chunk.usage.get(name)
    return value if isinstance(value, int) else 0


def _usage(choices: Sequence[Choice], prompts: int) -> dict[str, int]:
    """The tokens of each prompt once, those of all answers."""
    each = max(1, len(choices) // max(1, prompts))
    prompt = sum(choice.prompt_tokens for choice in choices[::each])
    completion = sum(choice.completion_tokens for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Whole:
    """Makes the object of an answer that is not streamed."""

    def __init__(self, chat: bool, name: str, model: str, created: int) -> None:
        self._chat = chat
        kind = "chat.completion" if chat else "text_completion"
        self._head = {"id": name, "object": kind, "created": created, "model": model}

    def body(self, choices: Sequence[Choice], prompts: int) -> bytes:
        """All answers; `prompts` is the number of prompts that they share."""
        listed = [self._choice(number, choice) for number, choice in enumerate(choices)]
        return json.dumps({**self._head, "choices": listed, "usage": _usage(choices, prompts)}).encode("ascii")

    def _choice(self, number: int, choice: Choice) -> dict[str, Any]:
        text = "".join(choice.text)
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return {"index": number, **said, "logprobs": None, "finish_reason": choice.finish_reason}


class Events:
    """Makes the events of a streamed answer; all but the text of one choice's events is made once."""

    def __init__(self, chat: bool, name: str, model: str, created: int, include_usage: bool) -> None:
        self._chat = chat
        kind = "chat.completion.chunk" if chat else "text_completion"
        head = json.dumps({"id": name, "object": kind, "created": created, "model": model})[:-1]
        self._open = f'data: {head}, "choices": ['
        self._usage = ', "usage": null' if include_usage else ""
        self._include_usage = include_usage
        self._parts: dict[int, tuple[str, str, str]] = {}
        self._begun: set[int] = set()

    def text(self, index: int, chunks: Iterable[Chunk], choice: Choice) -> str:
        """The events for new chunks of a choice; "" where they hold no text yet."""
        before, after, end = self._parts.get(index) or self._make(index)
        events = []
        for chunk in chunks:
            if chunk.text:
                events.append(f"{before}{_quoted(chunk.text)}{after}")
            if chunk.finish_reason is not None:
                choice.counted(chunk)
                events.append(f"{before}{end % _quoted(chunk.finish_reason)}")
        if self._chat and index not in self._begun and events:
            self._begun.add(index)
            role = f'{self._open}{{"index": {index}, "delta": {{"role": "assistant", "content": ""}}'
            events.insert(0, f'{role}, "logprobs": null, "finish_reason": null}}]{self._usage}}}\n\n')
        return "".join(events)

    def usage(self, choices: Sequence[Choice], prompts: int) -> str:
        """The last event before the end, where it was asked for."""
        if not self._include_usage:
            return ""
        return f'{self._open}], "usage": {json.dumps(_usage(choices, prompts))}}}\n\n'

    def _make(self, index: int) -> tuple[str, str, str]:
        rest = f', "logprobs": null, "finish_reason": null}}]{self._usage}}}\n\n'
        last = f', "logprobs": null, "finish_reason": %s}}]{self._usage}}}\n\n'
        if self._chat:
            parts = (f'{self._open}{{"index": {index}, "delta": {{"content": ', "}" + rest, '""}' + last)
        else:
            parts = (f'{self._open}{{"index": {index}, "text": ', rest, '""' + last)
        self._parts[index] = parts
        return parts


def error_event(body: bytes) -> str:
    """The event that tells of an error after the first token."""
    return f"data: {body.decode('ascii')}\n\n"
