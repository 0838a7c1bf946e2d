"""The opaque state of a context-only answer: where its KV cache lies, and what it must look like on arrival."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

from trtdist.engines.base import EngineError
from trtdist.engines.reference.shape import HEADS, POSITIONS

__all__ = ["NOWHERE", "Address", "Handle", "Place", "parse", "read_place"]

_VERSION = 1
_MAX_BYTES = 16384
_DIGEST = 32

# Host and port.
Address = tuple[str, int]

# How one context rank is reached: its rank in the MPI world, or an address.
Place = Union[int, Address]
# Of a rank that lets nobody fetch.
NOWHERE: Address = ("", 0)


@dataclass(frozen=True)
class Handle:
    """The KV cache of `tokens` positions that `server` keeps as `number`.

    `places` has the context ranks in order, each with its share of the heads; `digests` has one per head. `prompt` is
    the digest of the prompt's tokens, `logits` the chain over the logits so far.
    """

    number: int
    server: str
    tokens: int
    places: tuple[Place, ...]
    digests: tuple[str, ...]
    prompt: str
    logits: str

    def encode(self) -> bytes:
        """As the bytes that travel."""
        return json.dumps({"version": _VERSION, **vars(self)}, separators=(",", ":")).encode()


def parse(state: bytes) -> Handle:
    """Read what came over the network; EngineError when it is not what `encode` gives."""
    if len(state) > _MAX_BYTES:
        raise EngineError(f"the state of the context server has {len(state)} bytes, more than {_MAX_BYTES}")
    try:
        raw = json.loads(state)
    except (ValueError, RecursionError):
        raise EngineError("the state of the context server is damaged: no JSON") from None
    names = {"version", *Handle.__dataclass_fields__}
    if not isinstance(raw, dict) or set(raw) != names or raw["version"] != _VERSION:
        raise EngineError("the state of the context server is not from this version of the reference engine")
    places = _list(raw, "places", read_place)
    if len(places) not in (1, 2, 4, 8) or len({type(place) for place in places}) != 1:
        raise _damaged("places")
    digests = _list(raw, "digests", _digest)
    if len(digests) != HEADS:
        raise _damaged("digests")
    return Handle(
        number=_integer(raw["number"], "number", 0, 2**63 - 1),
        server=_text(raw["server"], "server", 128),
        tokens=_integer(raw["tokens"], "tokens", 1, POSITIONS),
        places=places,
        digests=digests,
        prompt=_digest(raw["prompt"], "prompt"),
        logits=_digest(raw["logits"], "logits"),
    )


def _damaged(name: str) -> EngineError:
    return EngineError(f"the state of the context server is damaged at {name!r}")


def _list(raw: dict[str, Any], name: str, read: Callable[[Any, str], Any]) -> tuple[Any, ...]:
    if not isinstance(raw[name], list):
        raise _damaged(name)
    return tuple(read(item, name) for item in raw[name])


def _integer(value: Any, name: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _damaged(name)
    return value


def _text(value: Any, name: str, most: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= most:
        raise _damaged(name)
    return value


def _digest(value: Any, name: str) -> str:
    if len(_text(value, name, _DIGEST)) != _DIGEST or set(value) - set("0123456789abcdef"):
        raise _damaged(name)
    return str(value)


def read_place(value: Any, name: str) -> Place:
    """A place as JSON has it; EngineError, with the name of the field, when it is none."""
    if isinstance(value, list) and len(value) == 2:
        return _text(value[0], name, 256), _integer(value[1], name, 1, 65535)
    return _integer(value, name, 0, 2**31 - 1)
