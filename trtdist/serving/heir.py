"""Where the run is that has taken over from another one, as the etcd of that one tells its clients."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from trtdist.errors import InputError
from trtdist.rundir import RunDir
from trtdist.services.heirs import HEIR
from trtdist.services.tls import client_context
from trtdist.serving.etcd import KeyValue
from trtdist.serving.run_config import RunConfig
from trtdist.serving.slug import check_name

__all__ = ["Heir"]

MAX_VALUE_BYTES = 16 * 1024
_MOST_ENDPOINTS = 64


@dataclass(frozen=True)
class Heir:
    """A run by its id, with the URLs of its services; user and password are those of the run before it."""

    run: str
    nats_url: str
    etcd_endpoints: tuple[str, ...]

    @classmethod
    def from_entry(cls, item: KeyValue) -> Heir | None:
        """Read a key of etcd; None for another key, InputError for a value that names no run."""
        if not item.key.endswith(f"/components/{HEIR}"):
            return None
        try:
            raw = json.loads(item.value) if len(item.value) <= MAX_VALUE_BYTES else None
        except (ValueError, RecursionError):
            raw = None
        if not isinstance(raw, dict):
            raise InputError(f"{item.key} has no JSON object of a run")
        etcd = raw.get("etcd")
        if not isinstance(etcd, list) or not 0 < len(etcd) <= _MOST_ENDPOINTS:
            raise InputError(f"{item.key} names no etcd")
        return cls(
            check_name(_text(raw.get("run"), item.key), "run"),
            _text(raw.get("nats"), item.key),
            tuple(_text(each, item.key) for each in etcd),
        )

    def config(self, before: RunConfig) -> RunConfig:
        """How to reach it, for a client of the run before it; TrtdistError when its certificates cannot be used."""
        run = RunDir(before.run.path.with_name(self.run))
        # Those of the run before are not renewed any more once that has ended.
        nats_tls, etcd_tls = (old and client_context(run) for old in (before.nats_tls, before.etcd_tls))
        urls = replace(before, nats_url=self.nats_url, etcd_endpoints=self.etcd_endpoints, http_url="")
        return replace(urls, run=run, nats_tls=nats_tls, etcd_tls=etcd_tls)


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{key} has something else where text belongs")
    return value
