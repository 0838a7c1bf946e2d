"""`python -m trtdist.supervisor.resolve RUN_DIR [--again nats|etcd]`: finds addresses, ports and programs of a run.

Writes them to resolved.env, which the step files and all programs of the run read; `--again` chooses new ports for one
service and leaves the rest as it is. What the topology says about these comes from given.env. A run through Slurm is
resolved on the head node of its job. Standard library, Python 3.9.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trtdist.errors import InputError, TrtdistError
from trtdist.plan import Plan, from_json
from trtdist.rundir import RunDir, write_atomic
from trtdist.services.address import host_port
from trtdist.services.binaries import PROGRAMS, find_binary, find_mpiexec
from trtdist.services.envfile import read_env, write_env
from trtdist.services.renewal import NotRenewedError, renew
from trtdist.services.tls import UNPROTECTED
from trtdist.supervisor import stamp
from trtdist.supervisor.facts import Node
from trtdist.supervisor.nodeprobe import Unusable, choose, private_folder
from trtdist.supervisor.ports import PortClaims, range_of
from trtdist.supervisor.server_ports import ports_asked, server_addresses

__all__ = ["external_services", "main", "resolve", "service_ports"]

_LOOPBACK = "127.0.0.1"
_EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True)
class _Service:
    """The names in resolved.env that belong to a service: its ports, its program, and where clients find it."""

    ports: tuple[str, ...]
    binary: str
    client: str
    scheme: str
    plain: str


_SERVICES = {
    "nats": _Service(("TRTDIST_NATS_PORT",), "TRTDIST_NATS_BINARY", "NATS_SERVER", "tls", "nats"),
    "etcd": _Service(
        ("TRTDIST_ETCD_PORT", "TRTDIST_ETCD_PEER_PORT"), "TRTDIST_ETCD_BINARY", "ETCD_ENDPOINTS", "https", "http"
    ),
}


def resolve(
    run: RunDir, environ: Mapping[str, str], again: str = "", claims: PortClaims | None = None
) -> dict[str, str]:
    """Write resolved.env and return what is in it; `again` names the service that gets new ports.

    Ports stay claimed as long as `claims` holds them, which keeps other runs away until the servers listen.
    Certificates are renewed if that is due. TrtdistError when something cannot be found or written.
    """
    if claims is None:
        claims = PortClaims()
        try:
            return resolve(run, environ, again, claims)
        finally:
            claims.close()
    if not again:
        _renew(run)
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


def external_services(values: Mapping[str, str]) -> list[str]:
    """The services of a run that are somebody else's."""
    return [name for name, service in _SERVICES.items() if service.client in values and service.ports[0] not in values]


def _renew(run: RunDir) -> None:
    """A job may have waited for long. What can still be used is left to the supervisor."""
    try:
        renew(run)
    except NotRenewedError as error:
        if error.over:
            raise


def _found(run: RunDir, environ: Mapping[str, str], claims: PortClaims) -> dict[str, str]:
    given = read_env(run.given_env) if run.given_env.exists() else {}
    local = run.local
    _make_folder(local)
    slurm = given.get("TRTDIST_LAUNCHER") == "slurm"
    # A run on one machine with programs of our own starts sooner without its plan.
    plan = _plan(run) if slurm or "TRTDIST_RUNTIME" in given else None
    nodes, launching = _in_job(run, plan, given, environ, local, claims) if plan and slurm else _here(given, environ)
    values = {
        "TRTDIST_RUN_ID": run.run_id,
        "TRTDIST_RUN_DIR": str(run.path),
        "TRTDIST_LOCAL_DIR": str(local),
        "TRTDIST_PYTHON": sys.executable,
        "TRTDIST_NODES": " ".join(node.name for node in nodes),
        "TRTDIST_ADDRESSES": " ".join(node.address for node in nodes),
        "TRTDIST_HEAD_ADDRESS": nodes[0].address,
        **({"TRTDIST_PORT_RANGE": given["TRTDIST_PORT_RANGE"]} if "TRTDIST_PORT_RANGE" in given else {}),
        **launching,
        **({UNPROTECTED: "1"} if plan and plan.over_http else {}),
        stamp.STAMP: stamp.anew(),
    }
    own = list(_SERVICES) if plan is None else [step.name for step in plan.steps if step.kind == "service"]
    for name, service in _SERVICES.items():
        if service.client in given:
            values[service.client] = given[service.client]
        elif name in own:
            values[service.binary] = _binary(name, given, environ)
            values.update(_ports(name, values, claims))
    values.update(_http(given, nodes[0].address, claims))
    return {**values, **server_addresses(plan, nodes, values, claims)} if plan and plan.over_http else values


def _plan(run: RunDir) -> Plan:
    try:
        return from_json(run.plan.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise TrtdistError(f"{run.plan} cannot be read ({error}): bring the run up again") from error


def _mpiexec(given: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """That of the image, if ranks run in one."""
    return given.get("TRTDIST_MPIEXEC") or find_mpiexec(environ)


def _binary(service: str, given: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """The program of a service; in a container it is looked for there, when it starts."""
    named = given.get(_SERVICES[service].binary, "")
    if service in given.get("TRTDIST_CONTAINED", "").split():
        return named or PROGRAMS[service]
    return find_binary(service, environ, named)


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
    port = wanted or claims.claim(host, 1, range_of(given))[0]
    named = head if host in _EVERYWHERE else host
    url = f"{'https' if 'TRTDIST_HTTP_TLS' in given else 'http'}://{host_port(named, port)}"
    return {"TRTDIST_HTTP_HOST": host, "TRTDIST_HTTP_PORT": str(port), "TRTDIST_HTTP_URL": url}


def _with_new_ports(run: RunDir, name: str, claims: PortClaims) -> dict[str, str]:
    values = read_env(run.resolved_env)
    ports = service_ports(name, values)
    if not ports:
        raise InputError(f"{name} is external in this run: its address is not ours to choose")
    # The new ones are claimed before the old are given back, so that they are different.
    values.update(_ports(name, values, claims))
    values[stamp.STAMP] = stamp.changed(values[stamp.STAMP])
    claims.release(ports)
    return values


def _ports(name: str, values: Mapping[str, str], claims: PortClaims) -> dict[str, str]:
    service = _SERVICES[name]
    address = values["TRTDIST_HEAD_ADDRESS"]
    ports = claims.claim(address, len(service.ports), range_of(values))
    found = {name: str(port) for name, port in zip(service.ports, ports)}
    scheme = service.plain if UNPROTECTED in values else service.scheme
    return {**found, service.client: f"{scheme}://{host_port(address, ports[0])}"}


def _here(given: Mapping[str, str], environ: Mapping[str, str]) -> tuple[list[Node], dict[str, str]]:
    """This machine as the only node, and the variables that launching takes here."""
    return [Node(socket.gethostname(), _LOOPBACK)], {"TRTDIST_MPIEXEC": _mpiexec(given, environ)}


def _in_job(
    run: RunDir,
    plan: Plan,
    given: Mapping[str, str],
    environ: Mapping[str, str],
    local: Path,
    claims: PortClaims,
) -> tuple[list[Node], dict[str, str]]:
    """The nodes of the job that the run needs, the head first, and the variables that launching takes there.

    Each node was looked at.
    """
    # A run on one machine starts sooner without what speaks to Slurm.
    from trtdist.supervisor.job_nodes import job_nodes, look_at_nodes, mpi_type
    from trtdist.supervisor.spare_nodes import placed

    names = job_nodes(environ, plan.allocation.nodes)
    try:
        _, head = choose(given.get("TRTDIST_INTERFACE", ""), given.get("TRTDIST_SUBNET", ""), names[1:2])
    except Unusable as problem:
        # What the head node lacks the others may lack as well, which is told at once.
        look_at_nodes(run, names, given, local, None)
        raise TrtdistError(f"node {names[0]} {problem}") from None
    port = claims.claim(head, 1, range_of(given))[0]
    family = socket.AF_INET6 if ":" in head else socket.AF_INET
    listener = socket.create_server((head, port), family=family, backlog=1024)
    found = look_at_nodes(run, names, given, local, listener, ports_asked(plan), placed(plan))
    claims.release([port])
    if not run.slurm_job.exists() and not run.borrowed_job.exists():
        # Whoever starts the files by hand finds the run's steps and nodes by their job.
        write_atomic(run.borrowed_job, environ["SLURM_JOB_ID"] + "\n")
    nodes = [replace(found[0], address=head), *found[1:]]
    clocks = " ".join(f"{node.ahead:.3f}" for node in nodes)
    return nodes, {"TRTDIST_CLOCKS": clocks, "TRTDIST_MPI_TYPE": mpi_type()}


def _make_folder(path: Path) -> None:
    try:
        private_folder(str(path))
    except Unusable as problem:
        raise TrtdistError(f"this machine {problem}") from None


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
