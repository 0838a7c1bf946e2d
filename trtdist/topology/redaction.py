"""A topology without its secrets, for files that others may read."""

from __future__ import annotations

import re

from trtdist.topology.model import Topology

__all__ = ["names_secret", "redacted"]

_PASSWORD = re.compile(r"(?<=://)[^/@,]*(?=@)")
_SECRETS = frozenset(("APIKEY", "CREDENTIAL", "CREDENTIALS", "KEY", "PASSWD", "PASSWORD", "SECRET", "TOKEN"))
_HIDDEN = "***"


def names_secret(variable: str) -> bool:
    """Whether an environment variable is a secret by its name, as HF_TOKEN and AWS_SECRET_ACCESS_KEY are."""
    return not _SECRETS.isdisjoint(variable.upper().split("_"))


def redacted(topology: Topology) -> Topology:
    """The topology with `***` for the credentials in addresses of external services, and for the values of variables
    that are secrets by their names."""
    services, container = topology.services, topology.container
    nats, etcd = services.nats, services.etcd
    if nats.external is not None:
        nats = nats.model_copy(update={"external": _PASSWORD.sub(_HIDDEN, nats.external)})
    if etcd.external is not None:
        etcd = etcd.model_copy(update={"external": _PASSWORD.sub(_HIDDEN, etcd.external)})
    env = {name: _HIDDEN if names_secret(name) else value for name, value in container.env.items()}
    return topology.model_copy(
        update={
            "services": services.model_copy(update={"nats": nats, "etcd": etcd}),
            "container": container.model_copy(update={"env": env}),
        }
    )
