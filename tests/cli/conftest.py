"""The servers of the serving tests, for the commands that talk to a run."""

from __future__ import annotations

from tests.serving.conftest import etcd_server, namespace, nats_server

__all__ = ["etcd_server", "namespace", "nats_server"]
