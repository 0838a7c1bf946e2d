"""`python -m trtdist.supervisor.resolve RUN_DIR [--again nats|etcd]`: finds addresses, ports and programs of a run.

Writes them to resolved.env, which the step files and all programs of the run read; `--again` chooses new ports for one
service and leaves the rest as it is. What the topology says about these comes from given.env. Standard library, Python
3.9.
"""

from __future__ import annotations

import argparse
import os
import socket
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trtdist.errors import InputError, TrtdistError
from trtdist.rundir import RunDir, local_dir
from trtdist.services.binaries import find_binary, find_mpiexec
from trtdist.services.envfile import read_env, write_env
from trtdist.supervisor.ports import PortClaims

__all__ = ["Node", "main", "resolve", "service_ports"]

_LOOPBACK = "127.0.0.1"
_EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True)
class _Service:
    """The names in resolved.env that belong to a service: its ports, its program, and where clients find it."""

    ports: tuple[str, ...]
    binary: str
    client: str
    scheme: str


_SERVICES = {
    "nats": _Service(("TRTDIST_NATS_PORT", "TRTDIST_NATS_MONITOR_PORT"), "TRTDIST_NATS_BINARY", "NATS_SERVER", "nats"),
    "etcd": _Service(("TRTDIST_ETCD_PORT", "TRTDIST_ETCD_PEER_PORT"), "TRTDIST_ETCD_BINARY", "ETCD_ENDPOINTS", "http"),
}


@dataclass(frozen=True)
class Node:
    """A node of the run by name, and the address at which the others reach it."""

    name: str
    address: str


def resolve(
    run: RunDir, environ: Mapping[str, str], again: str = "", claims: PortClaims | None = None
) -> dict[str, str]:
    """Write resolved.env and return what is in it; `again` names the service that gets new ports.

    Ports stay claimed as long as `claims` holds them, which keeps other runs away until the servers listen.
    TrtdistError when something cannot be found or written.
    """
    if claims is None:
        claims = PortClaims()
        try:
            return resolve(run, environ, again, claims)
        finally:
            claims.close()
    try:
        values = _with_new_ports(run, again, claims) if again else _found(run, environ, claims)
        write_env(run.resolved_env, values)
    except OSError as error:
        raise TrtdistError(f"{error.filename or run.resolved_env} cannot be written: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"the run directory {run.path} has a name that no script can carry: {error}") from error
    return values


def service_ports(service: str, values: Mapping[str, str]) -> list[int]:
    """The ports of a service of our own; none for an external one."""
    return [int(values[name]) for name in _SERVICES[service].ports if name in values]


def _found(run: RunDir, environ: Mapping[str, str], claims: PortClaims) -> dict[str, str]:
    given = read_env(run.given_env) if run.given_env.exists() else {}
    nodes = _nodes()
    values = {
        "TRTDIST_RUN_ID": run.run_id,
        "TRTDIST_RUN_DIR": str(run.path),
        "TRTDIST_LOCAL_DIR": str(_make_local_dir(run.run_id)),
        "TRTDIST_PYTHON": sys.executable,
        "TRTDIST_NODES": " ".join(node.name for node in nodes),
        "TRTDIST_ADDRESSES": " ".join(node.address for node in nodes),
        "TRTDIST_HEAD_ADDRESS": nodes[0].address,
        "TRTDIST_MPIEXEC": find_mpiexec(environ),
    }
    for name, service in _SERVICES.items():
        if service.client in given:
            values[service.client] = given[service.client]
            continue
        values[service.binary] = find_binary(name, environ, given.get(service.binary, ""))
        values.update(_ports(service, nodes[0].address, claims))
    return {**values, **_http(given, nodes[0].address, claims)}


def _http(given: Mapping[str, str], head: str, claims: PortClaims) -> dict[str, str]:
    """Where the HTTP front end listens and is found; nothing without one. The claim lasts as long as the run."""
    host = given.get("TRTDIST_HTTP_HOST", "")
    if not host:
        return {}
    wanted = int(given.get("TRTDIST_HTTP_PORT", "0"))
    if wanted:
        try:
            claims.claim(host, 1, [wanted])
        except TrtdistError:
            raise TrtdistError(
                f"port {wanted} of {host} is in other hands: end what uses it, or set router.http.port to another"
            ) from None
    port = wanted or claims.claim(host, 1)[0]
    named = head if host in _EVERYWHERE else host
    url = f"http://[{named}]:{port}" if ":" in named else f"http://{named}:{port}"
    return {"TRTDIST_HTTP_HOST": host, "TRTDIST_HTTP_PORT": str(port), "TRTDIST_HTTP_URL": url}


def _with_new_ports(run: RunDir, name: str, claims: PortClaims) -> dict[str, str]:
    values = read_env(run.resolved_env)
    ports = service_ports(name, values)
    if not ports:
        raise InputError(f"{name} is external in this run: its address is not ours to choose")
    # The new ones are claimed before the old are given back, so that they are different.
    values.update(_ports(_SERVICES[name], values["TRTDIST_HEAD_ADDRESS"], claims))
    claims.release(ports)
    return values


def _ports(service: _Service, address: str, claims: PortClaims) -> dict[str, str]:
    ports = claims.claim(address, len(service.ports))
    host = f"[{address}]" if ":" in address else address
    found = {name: str(port) for name, port in zip(service.ports, ports)}
    return {**found, service.client: f"{service.scheme}://{host}:{ports[0]}"}


def _nodes() -> list[Node]:
    """The nodes of the run, the head first: this machine alone, which listens on loopback."""
    return [Node(socket.gethostname(), _LOOPBACK)]


def _make_local_dir(run_id: str) -> Path:
    """The node-local folder, for this user alone; the folder above it may have been put there by somebody else."""
    path = local_dir(run_id)
    try:
        _own(path)
    except FileNotFoundError:
        # Another run of this user ended at this moment and removed the folder above.
        _own(path)
    return path


def _own(path: Path) -> None:
    for folder in (path.parent, path):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            raise TrtdistError(f"{folder} belongs to somebody else: remove it, or set TMPDIR to another folder")
        if status.st_mode & 0o077:
            folder.chmod(0o700)


def main(arguments: Sequence[str]) -> int:
    """Resolve the run that the arguments name; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trtdist.supervisor.resolve", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    parser.add_argument("--again", choices=sorted(_SERVICES), default="", help="choose new ports for this service")
    given = parser.parse_args(arguments)
    try:
        resolve(RunDir(Path(os.path.abspath(given.run_dir))), os.environ, given.again)
    except TrtdistError as error:
        print(f"trtdist: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
