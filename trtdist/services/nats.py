"""The NATS server of a run: its configuration. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trtdist.rundir import RunDir, write_atomic
from trtdist.services.address import host_port
from trtdist.services.launch import Launch, read_secret
from trtdist.services.tls import UNPROTECTED, Certificates

__all__ = ["launch", "render_config"]

# 8 MiB; the runtime refuses what is larger before it sends it.
_MAX_PAYLOAD = 8 * 1024 * 1024

_CONFIG = """\
# Written for each start of the server; changes are lost.
server_name: {name}
listen: {listen}
{tls}
max_payload: {max_payload}

# What a client may be behind. A process that is stopped or busy for ten seconds (a core dump, a debugger, the loading
# of an engine) must not lose its connection; one that is dead is found within two minutes, its lease within seconds.
write_deadline: "60s"
max_pending: {max_pending}
ping_interval: "20s"
ping_max: 5

# A list, although it is one user: else the server closes all connections each time that it reads its certificates anew.
authorization {{ users: [{{ user: {user}, password: {password} }}], timeout: 10 }}

jetstream {{ store_dir: {store}, max_memory_store: {memory_store}, max_file_store: {file_store} }}
"""


def render_config(env: Mapping[str, str], user: str, password: str) -> str:
    """nats.conf for what `resolved.env` says; KeyError when that lacks something."""
    address = env["TRTDIST_HEAD_ADDRESS"]
    return _CONFIG.format(
        name=_quoted(env["TRTDIST_RUN_ID"]),
        listen=_quoted(host_port(address, env["TRTDIST_NATS_PORT"])),
        tls=_tls(env),
        max_payload=_MAX_PAYLOAD,
        max_pending=16 * _MAX_PAYLOAD,
        user=_quoted(user),
        password=_quoted(password),
        store=_quoted(str(Path(env["TRTDIST_LOCAL_DIR"]) / "nats")),
        memory_store=256 * 1024 * 1024,
        file_store=1024 * 1024 * 1024,
    )


def launch(run: RunDir, env: Mapping[str, str]) -> Launch:
    """Write nats.conf to the node-local folder, for this user's eyes; returns what to run."""
    user, password = read_secret(run, "nats.user"), read_secret(run, "nats.password")
    config = Path(env["TRTDIST_LOCAL_DIR"]) / "nats.conf"
    write_atomic(config, render_config(env, user, password))
    return Launch((env["TRTDIST_NATS_BINARY"], "-c", str(config)))


def _tls(env: Mapping[str, str]) -> str:
    """Both sides show certificates. There is no monitoring: it asks nobody who he is, and shows subjects."""
    if UNPROTECTED in env:
        return ""
    files = Certificates.of(RunDir(Path(env["TRTDIST_RUN_DIR"])))
    paths = {"cert_file": files.server, "key_file": files.server_key, "ca_file": files.authority}
    listed = ", ".join(f"{name}: {_quoted(str(path))}" for name, path in paths.items())
    # Handshakes of many ranks at once take longer on a busy node than the server's own two seconds.
    return f"tls {{ {listed}, verify: true, timeout: 10 }}"


def _quoted(text: str) -> str:
    """A string of NATS' configuration language, where $ and spaces have no meaning within quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'
