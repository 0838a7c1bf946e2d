"""Asks the head services whether they are well and whose they are. Standard library, Python 3.9.

A port may be in other hands than ours by the time it answers, so a service of our own must also name the run.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from trtdist.errors import TrtdistError
from trtdist.rundir import RunDir
from trtdist.services.external import NATS_PORT
from trtdist.services.http import Unwell, ask, connection, json_object
from trtdist.services.launch import read_secret
from trtdist.services.tls import etcd_context, own_context

__all__ = ["Health", "probe"]

_SECONDS = 1.0
_MAX_LINE = 1 << 14


@dataclass(frozen=True)
class Health:
    """Whether the service at `url` is well and ours; `detail` says why not."""

    healthy: bool
    url: str
    detail: str = ""


async def probe(service: str, env: Mapping[str, str]) -> Health:
    """Ask `nats` or `etcd`, as `resolved.env` describes it; answers within a second, and never raises for the service's
    sake.

    An external service need not be ours: NATS must greet, one of the etcd servers must be healthy.
    """
    own = {"nats": "TRTDIST_NATS_PORT", "etcd": "TRTDIST_ETCD_PORT"}[service] in env
    url = env["NATS_SERVER" if service == "nats" else "ETCD_ENDPOINTS"]
    try:
        await asyncio.wait_for(_ask(service, own, env, url), _SECONDS)
    except asyncio.TimeoutError:
        return Health(False, url, "gives no answer within a second")
    except ssl.SSLError as error:
        return Health(False, url, f"cannot be spoken to by TLS ({error.reason})")
    except OSError as error:
        return Health(False, url, f"cannot be reached ({error.strerror or error})")
    except (Unwell, TrtdistError, ValueError, asyncio.IncompleteReadError) as error:
        return Health(False, url, str(error))
    return Health(True, url)


def _ask(service: str, own: bool, env: Mapping[str, str], url: str) -> Awaitable[None]:
    if service == "nats":
        if not own:
            return _foreign_nats(url)
        return _own_nats(env)
    return _own_etcd(url, env) if own else _foreign_etcd(url)


async def _own_nats(env: Mapping[str, str]) -> None:
    """Without monitoring the way of a client must do; in a thread, since asyncio takes up TLS within a stream only from
    Python 3.11 on."""
    await asyncio.get_running_loop().run_in_executor(None, _log_in, env)


def _log_in(env: Mapping[str, str]) -> None:
    """Log in to our own NATS server, which shows its certificate if it has one, and have it answer a ping."""
    run = RunDir(Path(env["TRTDIST_RUN_DIR"]))
    login = {"user": read_secret(run, "nats.user"), "pass": read_secret(run, "nats.password"), "verbose": False}
    context = own_context(run, env, "TRTDIST_NATS_PORT")
    address = env["TRTDIST_HEAD_ADDRESS"], int(env["TRTDIST_NATS_PORT"])
    # Whoever has the port may say little and slowly: the thread must not outlive its question by much.
    end = time.monotonic() + _SECONDS
    with socket.create_connection(address, timeout=_SECONDS) as plain:
        greeting = _line(plain, end)
        if not greeting.startswith(b"INFO {"):
            raise Unwell("does not greet as a NATS server does")
        name = json_object(greeting[5:], "its greeting").get("server_name")
        if name != env["TRTDIST_RUN_ID"]:
            raise Unwell(f"is another NATS server ({name})")
        with context.wrap_socket(plain) if context is not None else plain as secure:
            secure.sendall(b"CONNECT %s\r\nPING\r\n" % json.dumps(login).encode())
            answer = _line(secure, end)
    if answer != b"PONG":
        raise Unwell(f"answers {answer.decode('ascii', 'replace') or 'nothing'} to a ping")


def _line(connection: socket.socket, end: float) -> bytes:
    """A line that comes before `end` (monotonic), read byte by byte, since what follows it may be TLS."""
    line = b""
    while not line.endswith(b"\r\n") and len(line) < _MAX_LINE and time.monotonic() < end:
        piece = connection.recv(1)
        if not piece:
            break
        line += piece
    return line.strip()


async def _own_etcd(url: str, env: Mapping[str, str]) -> None:
    run_id = env["TRTDIST_RUN_ID"]
    tls = etcd_context(env)
    members = (await ask(url, "POST", "/v3/cluster/member/list", tls)).get("members")
    names = [member.get("name") for member in members] if isinstance(members, list) else []
    if names != [run_id]:
        raise Unwell(f"is another etcd server ({', '.join(map(str, names)) or 'without a name'})")
    await _etcd_health(url, tls)


async def _foreign_etcd(urls: str) -> None:
    failures: list[Exception] = []
    for url in urls.split(","):
        try:
            return await _etcd_health(url)
        except (Unwell, OSError, ValueError, asyncio.IncompleteReadError) as error:
            failures.append(error)
    raise failures[0]


async def _etcd_health(url: str, tls: ssl.SSLContext | None = None) -> None:
    # Version 3.3 has a truth value, later ones a text.
    if str((await ask(url, "GET", "/health", tls)).get("health")).lower() != "true":
        raise Unwell("says that it is not well")


async def _foreign_nats(url: str) -> None:
    """A NATS server speaks first, before any TLS: `INFO {...}`."""
    parts = urlsplit(url)
    async with connection(parts.hostname or "", parts.port or NATS_PORT) as (reader, _):
        greeting = await reader.readline()
    if not greeting.startswith(b"INFO {"):
        raise Unwell("does not greet as a NATS server does")
