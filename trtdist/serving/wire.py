"""Reading what came over the network: strict about types and sizes, so that the rest may trust it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from trtdist.errors import TrtdistError

__all__ = ["Fields", "ProtocolError", "dumped", "encode", "quoted", "split"]

MAX_TEXT = 8 * 1024 * 1024


class ProtocolError(TrtdistError):
    """A message is not what the protocol allows; the message says which field."""


# What json.dumps would make anew for each message, made once.
dumped: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
quoted: Callable[[str], str] = json.encoder.encode_basestring


def encode(header: Mapping[str, Any], attachment: bytes = b"") -> bytes:
    """A message: a JSON object on one line, and after the line break bytes that belong to an engine."""
    text = dumped(header).encode("utf-8", "surrogatepass")
    return text + b"\n" + attachment if attachment else text


def split(data: bytes) -> tuple[Fields, bytes]:
    """The object and the attachment of a message; ProtocolError when it is none."""
    head, _, attachment = data.partition(b"\n")
    try:
        raw = json.loads(head.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        raise ProtocolError("a message is no JSON object") from None
    if not isinstance(raw, dict):
        raise ProtocolError("a message is no JSON object")
    return Fields(raw), attachment


class Fields:
    """The fields of a JSON object, each read as what it must be; ProtocolError names the one that is not."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw

    def __contains__(self, name: str) -> bool:
        return self._raw.get(name) is not None

    def raw(self, name: str) -> object:
        """Whatever is there, None when it is not."""
        return self._raw.get(name)

    def text(self, name: str, default: str | None = None, most: int = MAX_TEXT) -> str:
        """Text of at most `most` characters."""
        value = self._raw.get(name, default)
        if not isinstance(value, str) or len(value) > most:
            raise ProtocolError(f"{name} must be text of at most {most} characters")
        return value

    def integer(self, name: str, default: int | None = None, least: int = 0, most: int = 2**53) -> int:
        """A whole number from `least` to `most`."""
        value = self._raw.get(name, default)
        if type(value) is not int or not least <= value <= most:
            raise ProtocolError(f"{name} must be a whole number from {least:,} to {most:,}")
        return value

    def number(self, name: str, default: float | None = None, least: float = 0.0, most: float = 1e9) -> float:
        """A number from `least` to `most`."""
        value = self._raw.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ProtocolError(f"{name} must be a number")
        # Also refuses NaN, which no comparison holds for.
        if not least <= value <= most:
            raise ProtocolError(f"{name} must be a number from {least:,.15g} to {most:,.15g}")
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false; false when it is not there."""
        value = self._raw.get(name, False)
        if not isinstance(value, bool):
            raise ProtocolError(f"{name} must be true or false")
        return value

    def texts(self, name: str, most: int, longest: int = MAX_TEXT) -> tuple[str, ...]:
        """A list of at most `most` texts; empty when it is not there."""
        value = self._raw.get(name, [])
        if not isinstance(value, list) or len(value) > most:
            raise ProtocolError(f"{name} must be a list of at most {most} texts")
        if not all(isinstance(item, str) and len(item) <= longest for item in value):
            raise ProtocolError(f"{name} must hold texts of at most {longest} characters")
        return tuple(value)

    def integers(self, name: str, most: int) -> tuple[int, ...]:
        """A list of at most `most` whole numbers from 0 on; empty when it is not there."""
        value = self._raw.get(name, [])
        if not isinstance(value, list) or len(value) > most:
            raise ProtocolError(f"{name} must be a list of at most {most} whole numbers")
        if not all(type(item) is int and 0 <= item < 2**53 for item in value):
            raise ProtocolError(f"{name} must hold whole numbers from 0 on")
        return tuple(value)

    def inner(self, name: str) -> Fields:
        """An object within; empty when it is not there."""
        value = self._raw.get(name)
        if value is None:
            return Fields({})
        if not isinstance(value, dict):
            raise ProtocolError(f"{name} must be an object")
        return Fields(value)

    def mapping(self, name: str) -> dict[str, Any]:
        """An object within, as it is; empty when it is not there."""
        return dict(self.inner(name)._raw)
