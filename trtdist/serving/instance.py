"""One process that serves an endpoint, as etcd and the wire have it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from trtdist.errors import InputError
from trtdist.serving.etcd import KeyValue
from trtdist.serving.slug import control_subject, instance_key, instance_subject, parse_key

__all__ = ["Instance"]

MAX_VALUE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Instance:
    """One process that serves an endpoint.

    `subject` takes requests, `control_subject` credits and cancellations. `server` is the plan's name (`gen.0`,
    `router`), `engine` what it runs ("" for a router). One that was started again is not `proven` until a prompt has
    crossed it: it is given only the requests that name it.
    """

    namespace: str
    component: str
    endpoint: str
    lease_id: int
    subject: str
    control_subject: str
    server: str
    engine: str
    proven: bool = True

    @classmethod
    def of(
        cls, namespace: str, component: str, endpoint: str, lease_id: int, server: str, engine: str = ""
    ) -> Instance:
        """An instance with the subjects that follow from its names."""
        subject = instance_subject(namespace, component, endpoint, lease_id)
        control = control_subject(namespace, component, lease_id)
        return cls(namespace, component, endpoint, lease_id, subject, control, server, engine)

    @property
    def key(self) -> str:
        """Its key in etcd."""
        return instance_key(self.namespace, self.component, self.endpoint, self.lease_id)

    @property
    def lease_hex(self) -> str:
        """Its lease id as keys, subjects and the router's `exclude` have it."""
        return f"{self.lease_id:x}"

    def to_dict(self) -> dict[str, Any]:
        """As etcd and the wire have it; the control subject follows from the rest."""
        return {
            "component": self.component,
            "endpoint": self.endpoint,
            "namespace": self.namespace,
            "lease_id": self.lease_id,
            "transport": {"nats_tcp": self.subject},
            "server": self.server,
            "engine": self.engine,
            **({} if self.proven else {"proven": False}),
        }

    def to_value(self) -> bytes:
        """As the value of its key in etcd."""
        return json.dumps(self.to_dict(), indent=2).encode()

    @classmethod
    def from_dict(cls, raw: object) -> Instance:
        """Read what `to_dict` wrote; InputError when a field is missing, wrong, or contradicts the others."""
        if not isinstance(raw, dict) or not isinstance(raw.get("transport"), dict):
            raise InputError("an instance is an object with a transport")
        lease = raw.get("lease_id")
        if type(lease) is not int:
            raise InputError("an instance has a lease_id, a number")
        instance = cls.of(
            _text(raw, "namespace"),
            _text(raw, "component"),
            _text(raw, "endpoint"),
            lease,
            _text(raw, "server"),
            _text(raw, "engine"),
        )
        if raw["transport"].get("nats_tcp") != instance.subject:
            raise InputError(f"instance {instance.key} has another subject than its names give")
        proven = raw.get("proven", True)
        if not isinstance(proven, bool):
            raise InputError("an instance's proven is true or false")
        return instance if proven else replace(instance, proven=False)

    @classmethod
    def from_entry(cls, item: KeyValue) -> Instance:
        """Read a key of etcd; InputError when it is not an instance under its own key and lease."""
        parse_key(item.key)
        if len(item.value) > MAX_VALUE_BYTES:
            raise InputError(f"{item.key} has a value of {len(item.value)} bytes, which no instance has")
        try:
            raw = json.loads(item.value)
        except (ValueError, RecursionError):
            raise InputError(f"{item.key} has no JSON value") from None
        instance = cls.from_dict(raw)
        if instance.key != item.key:
            raise InputError(f"{item.key} has the value of {instance.key}")
        return instance


def _text(raw: dict[str, Any], name: str) -> str:
    value = raw.get(name, "")
    if not isinstance(value, str):
        raise InputError(f"an instance's {name} is text")
    return value
