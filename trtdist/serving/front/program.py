"""The HTTP front end of a run as a program, in as many processes as the plan says.

It runs on the host, in the environment of the launcher: uvloop and, for chat templates, jinja2 are used where they
are there. TERM ends it once open answers are finished, at most DRAIN_S later, or what its supervisor grants.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import resource
import socket
import ssl
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from trtdist.errors import InputError, RunFailedError, TrtdistError
from trtdist.events import EventWriter, Rung
from trtdist.plan import Http, Plan
from trtdist.rundir import RunDir
from trtdist.services.envfile import read_env
from trtdist.serving.front.chat import chat_template
from trtdist.serving.front.connection import Connections
from trtdist.serving.front.forking import fork_each
from trtdist.serving.front.metrics import Metrics
from trtdist.serving.front.service import Service, Settings
from trtdist.serving.program import asked, run_until_stopped
from trtdist.serving.requester import Requester
from trtdist.serving.run_config import RunConfig
from trtdist.serving.waiting import end_task, first_of

__all__ = ["granted", "listen", "read_keys", "serve", "server_tls", "work"]

DRAIN_S, LEAVE_S = 2.0, 1.0
# Whoever connects and then says nothing keeps a connection no longer.
HANDSHAKE_S = 10.0
BACKLOG = 4096
_LOOPBACK = ("127.", "::1")


async def serve(
    config: RunConfig,
    settings: Settings,
    metrics: Metrics,
    listener: socket.socket,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Answer what comes to a socket until `stop`; RunFailedError says why it had to end before."""
    async with Requester.open(config, "front") as requester:
        handle = Service(requester, settings, metrics).handle
        connections = Connections(handle, counted=lambda count: metrics.put("connections", count))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            connections.accept,
            sock=listener,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_S if tls is not None else None,
        )
        retiring = asyncio.ensure_future(_retire(requester, connections))
        try:
            reason = await first_of(requester.ended(), asked(stop))
        finally:
            await end_task(retiring)
            server.close()
            await connections.drain(granted(config.run))
    if reason:
        raise RunFailedError(f"the front end stops: {reason}")


async def _retire(requester: Requester, connections: Connections) -> None:
    """When another run has taken over, connections that stay open would keep clients here until the last moment."""
    await requester.handed_over()
    connections.retire()


def granted(run: RunDir) -> float:
    """How long open answers may take to end: what the supervisor grants less what leaving takes, else DRAIN_S."""
    try:
        seconds = float(run.patience("front").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return DRAIN_S
    return max(0.0, seconds - min(LEAVE_S, seconds / 3))


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """So many sockets on one port, among which the kernel spreads connections; TrtdistError when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = []
    for _ in range(count):
        one = socket.socket(family, socket.SOCK_STREAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            one.bind((host, port))
            one.listen(BACKLOG)
        except OSError as error:
            raise TrtdistError(f"cannot listen on {host} port {port}: {error.strerror}") from None
        found.append(one)
    return found


def read_keys(run: RunDir, host: str) -> frozenset[bytes]:
    """The digests of the keys in secrets/http.keys, one key a line; there may be none on loopback."""
    path = run.secrets / "http.keys"
    try:
        lines = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        lines = []
    if not lines and not host.startswith(_LOOPBACK):
        raise InputError(f"{path} has no API keys: write one a line, they are required on {host}")
    return frozenset(hashlib.sha256(key.encode("utf-8")).digest() for key in lines)


def server_tls(run: RunDir) -> ssl.SSLContext | None:
    """For HTTPS with the certificate of secrets/http.pem, None where the run has none."""
    certificate = run.secrets / "http.pem"
    if not certificate.exists():
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, run.secrets / "http.key")
    except ssl.SSLError as error:
        raise TrtdistError(f"{certificate} cannot be used for HTTPS: {error.reason or error}") from None
    return context


def _settings(config: RunConfig, plan: Plan, http: Http) -> Settings:
    return Settings(
        model=plan.model,
        created=int(time.time()),
        roles=tuple(dict.fromkeys(server.role for server in plan.servers)),
        template=chat_template(plan.model, plan.engine),
        keys=read_keys(config.run, http.host),
        requests=http.max_requests,
    )


def _run(main: Coroutine[Any, Any, None]) -> None:
    """In uvloop's event loop where that is installed, else in that of the standard library."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def _more_files() -> None:
    """As many open connections as this user may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def work(run_dir: Path) -> None:
    """Serve the run in a directory until TERM."""
    events = EventWriter(RunDir(run_dir).event_file("front"))
    events.write(Rung("front", "process"))
    config = RunConfig.load(run_dir)
    plan = config.plan()
    if plan.http is None:
        raise InputError(f"run {config.namespace} has no HTTP front end: its topology says router.http: null")
    settings = _settings(config, plan, plan.http)
    tls = server_tls(config.run)
    _more_files()
    port = int(read_env(config.run.resolved_env)["TRTDIST_HTTP_PORT"])
    listeners = listen(plan.http.host, port, plan.http.processes)
    metrics = Metrics(len(listeners))
    events.write(Rung("front", "answering", f"{'https' if tls else 'http'}://{plan.http.host}:{port}"))

    def one(number: int) -> None:
        metrics.process(number)
        for other in listeners[:number] + listeners[number + 1 :]:
            other.close()
        # What was loaded stays: a collection need not look at it again and again.
        gc.collect()
        gc.freeze()
        run_until_stopped(lambda stop: serve(config, settings, metrics, listeners[number], stop, tls), _run)

    fork_each(len(listeners), one)
