"""What etcd's v3 JSON gateway says, read strictly: bytes are base64, 64-bit numbers are strings, zeros are left out.

    EtcdError
    ├── EtcdUnavailableError    no endpoint answered in time
    ├── EtcdProtocolError       the answer is not one that etcd gives, or is too large
    └── EtcdRefusedError        etcd said no; `code` is gRPC's
        ├── LeaseGoneError      the lease is not there any more
        └── CompactedError      the history asked for is not kept any more: list again

The field names are those of etcd's rpc.proto.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from trtdist.errors import TrtdistError

__all__ = [
    "CompactedError",
    "EtcdError",
    "EtcdProtocolError",
    "EtcdRefusedError",
    "EtcdUnavailableError",
    "KeyValue",
    "LeaseGoneError",
    "RangeResult",
    "WatchBatch",
    "WatchEvent",
    "b64",
    "decode_object",
    "encode_key",
    "header_revision",
    "int_field",
    "key_range",
    "range_result",
    "refusal",
    "unwrap_stream",
    "watch_batch",
]

NOT_FOUND = 5
OUT_OF_RANGE = 11
_INT64 = 2**63


class EtcdError(TrtdistError):
    """etcd could not do what was asked."""


class EtcdUnavailableError(EtcdError):
    """No endpoint answered in time."""


class EtcdProtocolError(EtcdError):
    """The answer is not one that etcd gives, or is larger than the limit."""


class EtcdRefusedError(EtcdError):
    """etcd said no; `code` is the gRPC status code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class LeaseGoneError(EtcdRefusedError):
    """The lease expired or was revoked."""


class CompactedError(EtcdRefusedError):
    """The revisions asked for were compacted; `revision` is the oldest one that is kept."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"etcd keeps no history from before revision {revision}: list the keys again", OUT_OF_RANGE)
        self.revision = revision


@dataclass(frozen=True)
class KeyValue:
    """One key. Keys that are not UTF-8 have their odd bytes escaped (surrogateescape). `lease` is 0 without one."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True)
class RangeResult:
    """Keys in order, all as of one `revision` of the store of cluster `cluster_id`."""

    items: tuple[KeyValue, ...]
    revision: int
    cluster_id: int


@dataclass(frozen=True)
class WatchEvent:
    """A key was put, or deleted (`item` then has the key and the revision only)."""

    deleted: bool
    item: KeyValue


@dataclass(frozen=True)
class WatchBatch:
    """Events up to `revision`, in order; none at all says only that the watch has got so far."""

    events: tuple[WatchEvent, ...]
    revision: int


def _odd(what: str) -> EtcdProtocolError:
    return EtcdProtocolError(f"etcd's answer has {what}: is this address really etcd's?")


def b64(data: bytes) -> str:
    """Bytes as the gateway takes them."""
    return base64.b64encode(data).decode("ascii")


def encode_key(key: str) -> bytes:
    """The bytes of a key."""
    return key.encode("utf-8", "surrogateescape")


def key_range(prefix: str) -> dict[str, str]:
    """The `key` and `range_end` of all keys with a prefix; of all keys when it is empty."""
    start = encode_key(prefix)
    end = start.rstrip(b"\xff")
    if not end:
        return {"key": b64(start or b"\0"), "range_end": b64(b"\0")}
    return {"key": b64(start), "range_end": b64(end[:-1] + bytes([end[-1] + 1]))}


def decode_object(body: bytes) -> dict[str, Any]:
    """A JSON object; EtcdProtocolError when it is something else."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        raise _odd(f"no JSON ({body[:60]!r})") from None
    if not isinstance(raw, dict):
        raise _odd("no JSON object")
    return raw


def int_field(raw: dict[str, Any], name: str) -> int:
    """A number, 0 when it is left out."""
    value = raw.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise _odd(f"no number in {name!r}")
    try:
        number = int(value)
    except ValueError:
        raise _odd(f"no number in {name!r}") from None
    if not -_INT64 <= number < 2 * _INT64:
        raise _odd(f"a number out of range in {name!r}")
    return number


def _object_field(raw: dict[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name, {})
    if not isinstance(value, dict):
        raise _odd(f"no object in {name!r}")
    return value


def _list_field(raw: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = raw.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _odd(f"no list of objects in {name!r}")
    return value


def _bytes_field(raw: dict[str, Any], name: str) -> bytes:
    value = raw.get(name, "")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise _odd(f"no base64 in {name!r}") from None


def _key_value(raw: dict[str, Any]) -> KeyValue:
    return KeyValue(
        key=_bytes_field(raw, "key").decode("utf-8", "surrogateescape"),
        value=_bytes_field(raw, "value"),
        create_revision=int_field(raw, "create_revision"),
        mod_revision=int_field(raw, "mod_revision"),
        version=int_field(raw, "version"),
        lease=int_field(raw, "lease"),
    )


def header_revision(raw: dict[str, Any]) -> int:
    """The revision of the store when it answered."""
    return int_field(_object_field(raw, "header"), "revision")


def range_result(raw: dict[str, Any]) -> RangeResult:
    """The answer to a range request."""
    items = tuple(_key_value(item) for item in _list_field(raw, "kvs"))
    return RangeResult(items, header_revision(raw), int_field(_object_field(raw, "header"), "cluster_id"))


def refusal(raw: dict[str, Any]) -> EtcdRefusedError:
    """The error that an answer carries, of an ordinary call or of a stream."""
    inner = raw.get("error")
    fields = inner if isinstance(inner, dict) else raw
    message = str(fields.get("message") or fields.get("error") or "no reason given")
    code = int_field(fields, "grpc_code") or int_field(fields, "code")
    if code == NOT_FOUND and "lease not found" in message:
        return LeaseGoneError(f"etcd has no such lease any more ({message})", code)
    return EtcdRefusedError(f"etcd refused ({message})", code)


def unwrap_stream(raw: dict[str, Any]) -> dict[str, Any]:
    """What is in one message of a stream; raises the error that it carries."""
    if "error" in raw:
        raise refusal(raw)
    if "result" not in raw:
        raise _odd("a message without a result")
    return _object_field(raw, "result")


def watch_batch(result: dict[str, Any]) -> WatchBatch:
    """One message of a watch; CompactedError or EtcdRefusedError when it says that the watch is cancelled."""
    if int_field(result, "compact_revision"):
        raise CompactedError(int_field(result, "compact_revision"))
    if result.get("canceled"):
        reason = result.get("cancel_reason") or "no reason given"
        raise EtcdRefusedError(f"etcd cancelled the watch ({reason})", 0)
    events = tuple(
        WatchEvent(raw.get("type", "PUT") == "DELETE", _key_value(_object_field(raw, "kv")))
        for raw in _list_field(result, "events")
    )
    return WatchBatch(events, header_revision(result))
