"""What a topology says that the programs of a run must know, and the credentials that are made for it."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from trtdist.cli.front_files import front_files
from trtdist.planning.runtimes import serving_runtime
from trtdist.rendering.containers import needed_by_srun
from trtdist.services.authority import make_certificates
from trtdist.services.binaries import find_binary
from trtdist.services.external import etcd_endpoints, external_nats
from trtdist.topology.model import Topology
from trtdist.topology.redaction import names_secret

__all__ = ["Given", "chosen_binary", "given_local", "given_slurm", "own_services"]

_KEY_BYTES = 32


@dataclass(frozen=True)
class Given:
    """Variables of given.env, and files of secrets/."""

    variables: dict[str, str]
    secrets: dict[str, str] = field(repr=False)


def given_local(topology: Topology, environ: Mapping[str, str], now: float) -> Given:
    """For a run on this machine; `now` is seconds since the epoch. InputError when an external address cannot be used,
    MissingError when a program that is named is not there."""
    inside = topology.container.also
    binaries = {
        name: binary if service in inside else find_binary(service, environ, binary)
        for service, name, binary in _binaries(topology)
    }
    mpiexec = {"TRTDIST_MPIEXEC": "mpiexec"} if topology.container.runtime != "none" else {}
    common = _common(topology, now)
    return Given({**common.variables, **binaries, **mpiexec}, common.secrets)


def given_slurm(topology: Topology, now: float) -> Given:
    """For a run through Slurm; InputError when an external address cannot be used.

    The Python of this command runs it, on every node. `now` is seconds since the epoch.
    """
    network = topology.network
    chosen = {"TRTDIST_INTERFACE": network.interface, "TRTDIST_SUBNET": network.subnet}
    common = _common(topology, now)
    variables = {
        "TRTDIST_LAUNCHER": "slurm",
        "TRTDIST_PYTHON": sys.executable,
        **common.variables,
        **{name: binary for _, name, binary in _binaries(topology)},
        **needed_by_srun(topology),
        **{name: value for name, value in chosen.items() if value is not None},
    }
    return Given(variables, common.secrets)


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


def _common(topology: Topology, now: float) -> Given:
    """Addresses of external services and the range of ports. Credentials are the external server's, or made up for a
    server of our own, with certificates."""
    variables = {"TRTDIST_CONTAINED": " ".join(topology.container.also)} if topology.container.also else {}
    hidden = {"kv.key": secrets.token_hex(_KEY_BYTES)}
    hidden |= {f"env.{name}": value for name, value in topology.container.env.items() if names_secret(name)}
    services, ports, http = topology.services, topology.network.port_range, topology.router.http
    if http is not None:
        variables["TRTDIST_HTTP_HOST"] = http.host
        variables |= {} if http.port == "auto" else {"TRTDIST_HTTP_PORT": str(http.port)}
        hidden |= front_files(http) if serving_runtime(topology).ours else {}
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
    login = {"nats.user": user, "nats.password": password} if user else {}
    foreign = services.nats.external is not None and services.etcd.external is not None
    shown = {} if foreign or not serving_runtime(topology).ours else make_certificates(now)
    return Given(variables, {**hidden, **login, **shown})
