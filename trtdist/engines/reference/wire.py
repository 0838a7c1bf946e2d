"""Messages between ranks as the bytes that travel, none of which is ever run.

length   4 bytes, big end first
line     JSON of so many bytes: the kind of the message, then its fields in order
heads    the heads of a KV cache one after the other, as long as the line says
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from trtdist.engines.base import EngineError
from trtdist.engines.reference import messages
from trtdist.engines.reference.handle import NOWHERE, Handle, parse, read_place
from trtdist.engines.reference.shape import HEADS, POSITIONS, head_bytes

__all__ = ["MAX_BYTES", "decode", "encode"]

_LENGTH = 4
# The longest prompt's whole KV cache, and room for the line.
MAX_BYTES = HEADS * head_bytes(POSITIONS) + (16 << 20)


def encode(message: messages.Message) -> bytes:
    """The bytes of a message."""
    line = json.dumps(message, default=_plain, separators=(",", ":")).encode()
    heads = message.heads.values() if isinstance(message, messages.Answer) else ()
    return b"".join([len(line).to_bytes(_LENGTH, "big"), line, *heads])


def decode(data: bytes | bytearray) -> messages.Message:
    """Read what another rank sent; EngineError when it is not what `encode` gives."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "big")
    try:
        message: messages.Message = _message(json.loads(data[_LENGTH:end]))
        if isinstance(message, messages.Answer):
            return _with_heads(message, memoryview(data)[end:])
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise EngineError("a rank of the MPI world sent a damaged message, or has another version of trtdist") from None
    return message


def _plain(value: Any) -> Any:
    """What JSON has for a part of a message that it does not know."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Handle):
        return value.encode().decode()
    return [type(value).__name__, *vars(value).values()]


def _message(raw: list[Any]) -> Any:
    kind, *fields = raw
    made, readers = _KINDS[kind]
    if len(fields) != len(readers):
        raise ValueError(kind)
    return made(*(read(field) for read, field in zip(readers, fields)))


def _with_heads(answer: Any, data: memoryview) -> messages.Answer:
    """The answer with heads in the place of their sizes."""
    heads, at = {}, 0
    for head, size in answer.heads.items():
        heads[head] = bytes(data[at : at + size])
        at += size
    if at != len(data):
        raise ValueError(at)
    return messages.Answer(answer.sequence, heads, answer.problem)


def _integer(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(value)
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _integers(value: Any) -> tuple[int, ...]:
    return tuple(map(_integer, value))


def _actions(value: Any) -> tuple[Any, ...]:
    return tuple(map(_message, value))


def _handle(value: Any) -> Handle:
    return parse(_text(value).encode())


def _place(value: Any) -> Any:
    return NOWHERE if value == list(NOWHERE) else read_place(value, "place")


def _texts(value: Any) -> dict[int, str]:
    return {int(head): _text(text) for head, text in value.items()}


def _sizes(value: Any) -> dict[int, int]:
    return {int(head): _integer(size) for head, size in value.items()}


_READERS: dict[type, tuple[Callable[[Any], Any], ...]] = {
    messages.Forward: (_integer, _integers, _flag),
    messages.Reuse: (_integer, _integers),
    messages.Remember: (_integer, _integers),
    messages.Keep: (_integer, _integer),
    messages.Fetch: (_integer, _handle),
    messages.Drop: (_integer,),
    messages.Release: (_integer,),
    messages.Round: (_actions,),
    messages.Stop: (),
    messages.Ready: (_integer, _place),
    messages.Kept: (_integer, _integer, _texts),
    messages.Fetched: (_integer, _integer, _integer),
    messages.Refused: (_integer, _integer, _text),
    messages.Failed: (_integer, _text),
    messages.Ask: (_integer, _text, _integers, _integer, _integer),
    messages.Answer: (_integer, _sizes, _text),
}
_KINDS = {kind.__name__: (kind, readers) for kind, readers in _READERS.items()}
