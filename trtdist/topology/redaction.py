"""A topology without its secrets, for files that others may read."""

from __future__ import annotations

import re

from trtdist.topology.model import Topology

__all__ = ["redacted"]

_PASSWORD = re.compile(r"(?<=://)[^/@,]*(?=@)")


def redacted(topology: Topology) -> Topology:
    """The topology with the credentials in addresses of external services replaced by `***`."""
    services = topology.services
    nats, etcd = services.nats, services.etcd
    if nats.external is not None:
        nats = nats.model_copy(update={"external": _PASSWORD.sub("***", nats.external)})
    if etcd.external is not None:
        etcd = etcd.model_copy(update={"external": _PASSWORD.sub("***", etcd.external)})
    return topology.model_copy(update={"services": services.model_copy(update={"nats": nats, "etcd": etcd})})
