"""The bodies of requests, read strictly: what would change the answer and cannot be done is refused, never ignored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, Union

from trtdist.engines.base import Sampling
from trtdist.serving.front.errors import ApiError, invalid
from trtdist.serving.wire import Fields, ProtocolError

__all__ = ["DEFAULT_CHAT_TOKENS", "DEFAULT_TOKENS", "MAX_CHOICES", "Call", "Prompt", "parse_body", "read_chat",
           "read_completion"]  # fmt: skip

T = TypeVar("T")
# Text, or the numbers of tokens.
Prompt = Union[str, tuple[int, ...]]

DEFAULT_TOKENS, DEFAULT_CHAT_TOKENS = 16, 512
MAX_CHOICES, MAX_STOPS, MAX_MESSAGES, MAX_PROMPT_TOKENS = 128, 64, 16384, 1 << 20
ROLES = ("system", "developer", "user", "assistant", "tool")

# Beside these, a field is refused unless its value says that nothing is asked for.
_COMMON = {"model", "stream", "stream_options", "n", "stop", "seed", "max_tokens", "temperature", "top_p"}
_WITHOUT_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
}  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
}
_WHY = {"logprobs": "the engine gives no log probabilities", "top_logprobs": "the engine gives no log probabilities"}


@dataclass(frozen=True)
class Call:
    """What a request asks for: `n` answers to each prompt. `messages` is None for completions."""

    model: str
    sampling: Sampling
    n: int
    stream: bool
    include_usage: bool
    prompts: tuple[Prompt, ...] = ()
    messages: tuple[Mapping[str, str], ...] | None = None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, without what is null; ApiError when it is none."""
    try:
        raw = _DECODER.decode(body.decode("utf-8"))
    except RecursionError:
        raise invalid("the body is nested too deeply") from None
    except UnicodeDecodeError:
        raise invalid("the body is no UTF-8 text") from None
    except ValueError as error:
        raise invalid(f"the body is no JSON: {error}") from None
    if not isinstance(raw, dict):
        raise invalid("the body must be a JSON object")
    return {name: value for name, value in raw.items() if value is not None}


def read_chat(raw: Mapping[str, Any]) -> Call:
    """A body of /v1/chat/completions; ApiError says what is wrong with it."""
    _refuse_unsupported(raw, {"messages", "max_completion_tokens"})
    return _call(raw, DEFAULT_CHAT_TOKENS, messages=_messages(raw.get("messages")))


def read_completion(raw: Mapping[str, Any]) -> Call:
    """A body of /v1/completions; ApiError says what is wrong with it."""
    _refuse_unsupported(raw, {"prompt"})
    return _call(raw, DEFAULT_TOKENS, prompts=_prompts(raw.get("prompt")))


def _refuse_unsupported(raw: Mapping[str, Any], own: set[str]) -> None:
    for name in raw.keys() - _COMMON - _WITHOUT_EFFECT - own:
        if name not in _NEUTRAL:
            raise invalid(f"unknown field {name[:64]!r}", name[:64], "unknown_parameter")
        if not any(raw[name] == one and isinstance(raw[name], bool) == isinstance(one, bool) for one in _NEUTRAL[name]):
            why = _WHY.get(name, "that cannot be done here")
            raise invalid(f"{name} is not supported: {why}", name, "unsupported_parameter")


def _call(
    raw: Mapping[str, Any],
    tokens: int,
    prompts: tuple[Prompt, ...] = (),
    messages: tuple[Mapping[str, str], ...] | None = None,
) -> Call:
    fields = Fields(raw)
    limit = "max_completion_tokens" if "max_completion_tokens" in raw else "max_tokens"
    sampling = Sampling(
        max_tokens=_read(limit, lambda: fields.integer(limit, tokens, least=1, most=MAX_PROMPT_TOKENS)),
        temperature=_read("temperature", lambda: fields.number("temperature", 1.0, most=2.0)),
        top_p=_read("top_p", lambda: fields.number("top_p", 1.0, most=1.0)),
        seed=_read("seed", lambda: fields.integer("seed", least=-(2**63), most=2**63 - 1)) if "seed" in raw else None,
        stop=_stops(raw.get("stop", [])),
    )
    n = _read("n", lambda: fields.integer("n", 1, least=1, most=MAX_CHOICES))
    if n * max(1, len(prompts)) > MAX_CHOICES:
        raise invalid(f"n times the number of prompts is more than {MAX_CHOICES}", "n")
    options = _read("stream_options", lambda: fields.inner("stream_options"))
    return Call(
        model=_read("model", lambda: fields.text("model", most=1024)),
        sampling=sampling,
        n=n,
        stream=_flag(fields, "stream"),
        include_usage=_flag(options, "include_usage"),
        prompts=prompts,
        messages=messages,
    )


def _read(name: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except ProtocolError as error:
        raise invalid(str(error), name) from None


def _flag(fields: Fields, name: str) -> bool:
    value = fields.raw(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(f"{name} must be true or false", name)
    return bool(value)


def _stops(raw: object) -> tuple[str, ...]:
    stops = [raw] if isinstance(raw, str) else raw
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(one, str) for one in stops):
        raise invalid(f"stop must be text or a list of at most {MAX_STOPS} texts", "stop")
    return tuple(one for one in stops if one)


def _prompts(raw: object) -> tuple[Prompt, ...]:
    given: list[Any] = raw if isinstance(raw, list) and raw and not _is_token(raw[0]) else [raw]
    if len(given) > MAX_CHOICES:
        raise invalid(f"there are more than {MAX_CHOICES} prompts", "prompt")
    return tuple(map(_prompt, given))


def _prompt(raw: object) -> Prompt:
    if isinstance(raw, str) and raw:
        return raw
    if isinstance(raw, list) and raw and len(raw) <= MAX_PROMPT_TOKENS and all(map(_is_token, raw)):
        return tuple(raw)
    raise invalid("prompt must be text or a list of token numbers, or a list of such; none may be empty", "prompt")


def _is_token(raw: object) -> bool:
    return type(raw) is int and 0 <= raw < 2**53


def _messages(raw: object) -> tuple[Mapping[str, str], ...]:
    if not isinstance(raw, list) or not raw or len(raw) > MAX_MESSAGES:
        raise invalid(f"messages must be a list of 1 to {MAX_MESSAGES} messages", "messages")
    return tuple(_message(number, one) for number, one in enumerate(raw))


def _message(number: int, raw: object) -> Mapping[str, str]:
    where = f"messages[{number}]"
    if not isinstance(raw, dict):
        raise invalid(f"{where} must be an object", where)
    role = raw.get("role")
    if role not in ROLES:
        raise invalid(f"{where}.role must be one of {', '.join(ROLES)}", f"{where}.role")
    if raw.get("tool_calls") or raw.get("function_call"):
        raise invalid(f"{where} has tool calls, which are not supported", where, "unsupported_parameter")
    name = raw.get("name")
    if name is not None and not isinstance(name, str):
        raise invalid(f"{where}.name must be text", f"{where}.name")
    return {"role": role, "content": _content(where, raw.get("content")), **({"name": name} if name else {})}


def _content(where: str, raw: object) -> str:
    if isinstance(raw, str):
        return raw
    if not isinstance(raw, list):
        raise invalid(f"{where}.content must be text or a list of parts", f"{where}.content")
    return "".join(_part(f"{where}.content[{number}]", part) for number, part in enumerate(raw))


def _part(where: str, raw: object) -> str:
    if isinstance(raw, dict) and raw.get("type") == "text" and isinstance(raw.get("text"), str):
        return str(raw["text"])
    kind: ApiError = invalid(f"{where} must be a part of type text: nothing else is supported", where)
    raise kind
