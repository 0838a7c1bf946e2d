"""The etcd server of a run: its configuration. Standard library, Python 3.9."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtdist.rundir import RunDir, write_atomic
from trtdist.services.address import host_port
from trtdist.services.launch import Launch
from trtdist.services.tls import UNPROTECTED, Certificates

__all__ = ["launch", "render_config"]

# A tick of raft is one heartbeat, and a member that is alone leads after one to five of them: 50 ms make the server
# ready within a quarter of a second at 0.8 % of a core when idle, where the default 100/1000 ms take up to a second
# at 0.4 %.
_HEARTBEAT_MS, _ELECTION_MS = 50, 250


def render_config(env: Mapping[str, str]) -> str:
    """The configuration (JSON, so YAML) for what `resolved.env` says; KeyError when that lacks something."""
    address = env["TRTDIST_HEAD_ADDRESS"]
    scheme = "http" if UNPROTECTED in env else "https"
    client, peer = (f"{scheme}://{host_port(address, env[f'TRTDIST_ETCD_{port}'])}" for port in ("PORT", "PEER_PORT"))
    name = env["TRTDIST_RUN_ID"]
    config: dict[str, Any] = {
        "name": name,
        "data-dir": str(Path(env["TRTDIST_LOCAL_DIR"]) / "etcd"),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"{name}={peer}",
        "initial-cluster-token": name,
        "enable-grpc-gateway": True,  # on by default, but not with a configuration file
        "heartbeat-interval": _HEARTBEAT_MS,
        "election-timeout": _ELECTION_MS,
        # What it wrote survives its own death all the same. Only a crash of the machine can lose it, which ends the
        # run as well; and no disk that stalls can hold up leases.
        "unsafe-no-fsync": True,
        "quota-backend-bytes": 512 * 1024 * 1024,
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "10m",
        "log-level": "warn",
        "log-outputs": ["stderr"],
        **_tls(env),
    }
    return json.dumps(config, indent=1) + "\n"


def _tls(env: Mapping[str, str]) -> dict[str, Any]:
    """Both sides show certificates, on every port; etcd's own passwords would leave leases open to anybody."""
    if UNPROTECTED in env:
        return {}
    files = Certificates.of(RunDir(Path(env["TRTDIST_RUN_DIR"])))
    security = {
        "cert-file": str(files.server),
        "key-file": str(files.server_key),
        "trusted-ca-file": str(files.authority),
        "client-cert-auth": True,
    }
    return {"client-transport-security": security, "peer-transport-security": security}


def launch(run: RunDir, env: Mapping[str, str]) -> Launch:
    """Write etcd.yaml to the node-local folder; returns what to run."""
    config = Path(env["TRTDIST_LOCAL_DIR"]) / "etcd.yaml"
    write_atomic(config, render_config(env))
    # etcd reads ETCD_* as options and complains about those that are none, such as our ETCD_ENDPOINTS.
    return Launch((env["TRTDIST_ETCD_BINARY"], "--config-file", str(config)), without="ETCD_")
