"""Which nats-server and etcd a run would start, and whether they can be relied on. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trtdist.observe.findings import Finding, split

__all__ = ["check_services", "lossy_etcd"]

# https://etcd.io/blog/2022/ tells of 3.5.0 to 3.5.2.
_LOSSY_ETCD = ("3.5.0", "3.5.1", "3.5.2")


def check_services(node: str, services: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """The findings about the programs of a node, as `trtdist.supervisor.examine.service` tells them.

    `node` is "" for this machine alone: what an etcd may lose when it crashes is no loss to a run that ends with it.
    """
    for name, service in services.items():
        if service["problem"]:
            what, remedy = split(service["problem"])
            yield Finding("error", "services", node, what, remedy)
        elif node and name == "etcd" and service["version"] in _LOSSY_ETCD:
            yield _lossy(node, "would run", service)
        else:
            yield Finding("ok", "services", node, f"{name} {service['version']} is {service['path']}")


def lossy_etcd(services: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """The warning about what nodes would run that have the same programs as this machine."""
    etcd = services.get("etcd")
    if etcd is not None and etcd["version"] in _LOSSY_ETCD:
        yield _lossy("", "nodes with the programs of this machine would run", etcd)


def _lossy(node: str, whom: str, etcd: Mapping[str, str]) -> Finding:
    what = f"{whom} {etcd['path']}, etcd {etcd['version']}, which can lose data when it crashes"
    remedy = "put a newer etcd (3.5.3 or later) on PATH, or name one in services.etcd.binary"
    return Finding("warning", "services.etcd", node, what, remedy)
