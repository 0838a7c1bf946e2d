"""What a topology says that the programs of a run must know, and the credentials that are made for it."""

from __future__ import annotations

import ipaddress
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from trtdist.cli.front_files import front_files
from trtdist.planning.runtimes import serving_runtime
from trtdist.services.binaries import find_binary
from trtdist.services.external import etcd_endpoints, external_nats
from trtdist.topology.model import Topology

__all__ = ["Given", "chosen_binary", "given_local", "given_slurm", "own_services"]

_KEY_BYTES = 32


@dataclass(frozen=True)
class Given:
    """Variables of given.env, and files of secrets/."""

    variables: dict[str, str]
    secrets: dict[str, str] = field(repr=False)


def given_local(topology: Topology, environ: Mapping[str, str]) -> Given:
    """For a run on this machine. InputError when an external address cannot be used, MissingError when a program that
    is named is not there."""
    inside = topology.container.also
    binaries = {
        name: binary if service in inside else find_binary(service, environ, binary)
        for service, name, binary in _binaries(topology)
    }
    mpiexec = {"TRTDIST_MPIEXEC": "mpiexec"} if topology.container.runtime != "none" else {}
    common, http = _common(topology), topology.router.http
    open_to_others = http is not None and not ipaddress.ip_address(http.host).is_loopback
    keys = _http_key(topology) if open_to_others else {}
    return Given({**common.variables, **binaries, **mpiexec}, {**keys, **common.secrets})


def given_slurm(topology: Topology, now: float) -> Given:
    """For a run through Slurm, which speaks TLS between its nodes; InputError when an external address cannot be used.

    The Python of this command runs it, on every node. `now` is seconds since the epoch.
    """
    from trtdist.cli.certificates import make_certificates

    network = topology.network
    chosen = {"TRTDIST_INTERFACE": network.interface, "TRTDIST_SUBNET": network.subnet}
    common = _common(topology)
    # Others may be on the head node, and reach its loopback.
    key = _http_key(topology) if topology.router.http is not None else {}
    variables = {
        "TRTDIST_LAUNCHER": "slurm",
        "TRTDIST_PYTHON": sys.executable,
        **common.variables,
        **{name: binary for _, name, binary in _binaries(topology)},
        **{name: value for name, value in chosen.items() if value is not None},
    }
    return Given(variables, {**key, **common.secrets, **make_certificates(now)})


def chosen_binary(topology: Topology, service: str) -> str:
    """The program that the topology names for `nats` or `etcd`; "" when it names none or the service is external."""
    section = topology.services.nats if service == "nats" else topology.services.etcd
    return "" if section.external is not None else section.binary or ""


def own_services(topology: Topology) -> dict[str, str]:
    """The head services that a run starts on the host, with the program that the topology names for each, or ""."""
    elsewhere = (*topology.services.external, *topology.container.also)
    needed = serving_runtime(topology).services(topology)
    return {name: chosen_binary(topology, name) for name in needed if name not in elsewhere}


def _binaries(topology: Topology) -> list[tuple[str, str, str]]:
    """Services whose program is named: service, variable, program."""
    named = [(service, chosen_binary(topology, service)) for service in ("nats", "etcd")]
    return [(service, f"TRTDIST_{service.upper()}_BINARY", binary) for service, binary in named if binary]


def _common(topology: Topology) -> Given:
    """Addresses of external services and the range of ports. Credentials are the external server's, or made up for a
    server of our own."""
    variables = {"TRTDIST_CONTAINED": " ".join(topology.container.also)} if topology.container.also else {}
    hidden = {"kv.key": secrets.token_hex(_KEY_BYTES)}
    services, ports, http = topology.services, topology.network.port_range, topology.router.http
    if http is not None:
        variables["TRTDIST_HTTP_HOST"] = http.host
        variables |= {} if http.port == "auto" else {"TRTDIST_HTTP_PORT": str(http.port)}
        hidden |= front_files(http)
        variables |= {"TRTDIST_HTTP_TLS": "1"} if http.certificate is not None else {}
    if not serving_runtime(topology).ours:
        variables["TRTDIST_RUNTIME"] = topology.runtime
    if ports is not None:
        variables["TRTDIST_PORT_RANGE"] = f"{ports[0]}-{ports[1]}"
    needed = serving_runtime(topology).services(topology)
    if services.nats.external is None or "nats" not in needed:
        user, password = f"run-{secrets.token_hex(4)}", secrets.token_hex(_KEY_BYTES)
    else:
        nats = external_nats(services.nats.external)
        variables["NATS_SERVER"] = nats.url
        user, password = nats.user, nats.password
    if services.etcd.external is not None and "etcd" in needed:
        variables["ETCD_ENDPOINTS"] = etcd_endpoints(services.etcd.external)
    return Given(variables, {**hidden, **({"nats.user": user, "nats.password": password} if user else {})})


def _http_key(topology: Topology) -> dict[str, str]:
    """One that is made up, for a front end that asks for it."""
    if not serving_runtime(topology).ours:
        return {}
    return {"http.keys": f"sk-{secrets.token_hex(_KEY_BYTES)}"}
