"""Makes the run directory of a run on this machine: all that the supervisor needs to bring it up."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trtdist.errors import InputError, TrtdistError
from trtdist.plan import Plan, to_json
from trtdist.rendering import render_local, site_files
from trtdist.rundir import RunDir, runs_root, write_atomic
from trtdist.services.binaries import find_binary, find_mpiexec, require_packages
from trtdist.services.envfile import write_env
from trtdist.services.external import etcd_endpoints, external_nats
from trtdist.topology import dump, redacted
from trtdist.topology.model import Topology

__all__ = ["given_by", "prepare_local", "require_programs"]

_PACKAGES = {"reference": ("nats", "numpy", "mpi4py"), "tensorrt_llm": ("nats", "tensorrt_llm", "mpi4py")}
_LATEST = "latest"
_KEY_BYTES = 32
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class _Given:
    """What the topology says that the programs of a run must know: variables of given.env, and files of secrets/."""

    variables: dict[str, str]
    secrets: dict[str, str] = field(repr=False)


def prepare_local(topology: Topology, plan: Plan, *, environ: Mapping[str, str], now: float) -> RunDir:
    """Make a run directory below the runs folder, and point `latest` to it; `now` (epoch seconds) is in its name.

    It appears complete or, also after Ctrl-C, not at all. MissingError when a program or package is not there,
    InputError when this machine cannot run it or the runs folder cannot be used, TrtdistError when the disk is full.
    """
    require_programs(topology, plan, environ)
    scripts = render_local(plan, topology)
    given = given_by(topology, environ)
    root = Path(os.path.abspath(runs_root(environ)))
    _refuse_unspeakable(root)
    name = time.strftime(f"{topology.name}-%Y%m%d-%H%M%S", time.localtime(now))
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _make(root, name, lambda run: _fill(run, topology, plan, scripts, given))
    except OSError as error:
        raise _unusable(root, error) from error


def require_programs(topology: Topology, plan: Plan, environ: Mapping[str, str]) -> None:
    """MissingError names the first program or package that a run on this machine needs and does not find."""
    for step in plan.steps:
        if step.kind == "service":
            find_binary(step.name, environ, _binary(topology, step.name))
    find_mpiexec(environ)
    require_packages(_PACKAGES[topology.engine])


def given_by(topology: Topology, environ: Mapping[str, str]) -> _Given:
    """What a topology tells the programs of its runs; InputError when an external address cannot be used.

    Credentials are the external server's, or made up for a server of our own.
    """
    variables = {
        f"TRTDIST_{name.upper()}_BINARY": find_binary(name, environ, binary)
        for name in ("nats", "etcd")
        if (binary := _binary(topology, name))
    }
    hidden = {"kv.key": secrets.token_hex(_KEY_BYTES)}
    http = topology.router.http
    if http is not None:
        variables["TRTDIST_HTTP_HOST"] = http.host
        variables |= {} if http.port == "auto" else {"TRTDIST_HTTP_PORT": str(http.port)}
        if not ipaddress.ip_address(http.host).is_loopback:
            hidden["http.keys"] = f"sk-{secrets.token_hex(_KEY_BYTES)}"
    services = topology.services
    if services.nats.external is None:
        user, password = f"run-{secrets.token_hex(4)}", secrets.token_hex(_KEY_BYTES)
    else:
        nats = external_nats(services.nats.external)
        variables["NATS_SERVER"] = nats.url
        user, password = nats.user, nats.password
    if services.etcd.external is not None:
        variables["ETCD_ENDPOINTS"] = etcd_endpoints(services.etcd.external)
    return _Given(variables, {**hidden, **({"nats.user": user, "nats.password": password} if user else {})})


def _binary(topology: Topology, service: str) -> str:
    section = topology.services.nats if service == "nats" else topology.services.etcd
    return "" if section.external is not None else section.binary or ""


def _make(root: Path, name: str, fill: Callable[[RunDir], None]) -> RunDir:
    """Fill a folder that nobody sees yet and give it its name; another random end when that is taken."""
    path = root / f".{name}-{secrets.token_hex(8)}.part"
    try:
        path.mkdir(mode=0o700)
        fill(RunDir(path))
        path = _named(path, name)
        _point(root / _LATEST, path.name)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return RunDir(path)


def _named(part: Path, name: str) -> Path:
    while True:
        path = part.with_name(f"{name}-{secrets.token_hex(2)}")
        try:
            part.rename(path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        else:
            return path


def _fill(run: RunDir, topology: Topology, plan: Plan, scripts: Mapping[str, str], given: _Given) -> None:
    for folder in (run.scripts, run.logs, run.events, run.control, run.secrets):
        folder.mkdir(mode=0o700)
    write_atomic(run.topology, dump(redacted(topology)))
    write_atomic(run.plan, to_json(plan))
    write_env(run.given_env, given.variables)
    for name, text in scripts.items():
        write_atomic(run.scripts / name, text, 0o700 if name.endswith(".sh") else 0o600)
    for name, text in given.secrets.items():
        write_atomic(run.secrets / name, text)
    _copy_site(run.site)


def _copy_site(site: Path) -> None:
    """Copy what the programs of a run import, with the times of the originals."""
    folders = {site}
    site.mkdir(mode=0o700)
    for name, source in site_files().items():
        target = site / name
        if target.parent not in folders:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folders.add(target.parent)
        shutil.copyfile(source, target)
        status = source.stat()
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _point(link: Path, target: str) -> None:
    """Have a link lead to a run, in one step."""
    part = link.with_name(f".{link.name}.{secrets.token_hex(8)}")
    part.symlink_to(target)
    try:
        part.replace(link)
    except OSError:
        part.unlink()
        raise


def _refuse_unspeakable(root: Path) -> None:
    if not str(root).isprintable():
        raise InputError(
            f"the runs folder {str(root)!r} has characters that break scripts: set TRTDIST_RUNS to another"
        )


def _unusable(root: Path, error: OSError) -> TrtdistError:
    if error.errno in _FULL:
        return TrtdistError(f"no space is left for a run under {root}: make room, or set TRTDIST_RUNS to another disk")
    where = error.filename or root
    return InputError(f"cannot make a run under {root} ({where}: {error.strerror}): set TRTDIST_RUNS to another folder")
