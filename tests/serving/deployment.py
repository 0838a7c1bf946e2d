"""A deployment on real NATS and etcd servers: programs in this process, or as the processes that a run has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

import trtdist
from tests.planning.topologies import section, topology
from tests.serving import scripted_engine
from tests.serving.scripted import greedy, until
from tests.serving.scripted_engine import ScriptedEngine
from tests.serving.servers import EtcdServer, NatsServer, die_with_parent, free_ports
from trtdist.events import Event, EventReader, EventWriter
from trtdist.plan import Plan, to_json
from trtdist.planning import Target, plan
from trtdist.rundir import RunDir
from trtdist.serving.etcd import EtcdClient
from trtdist.serving.instance import Instance
from trtdist.serving.nats_connection import connection
from trtdist.serving.protocol import (
    Accepted,
    Chunk,
    Failure,
    GenerateCall,
    Heartbeat,
    StreamMessage,
    decode_answer,
    decode_stream,
)
from trtdist.serving.router import route
from trtdist.serving.run_config import RunConfig
from trtdist.serving.waiting import within
from trtdist.serving.watcher import Watcher
from trtdist.serving.worker import serve

__all__ = ["Caller", "Deployment", "Process", "Running", "deployment", "fill_site", "scripted_plan"]

SECONDS = 60.0


def scripted_plan(
    contexts: int, generations: int, policy: str = "round_robin", http: dict[str, Any] | None = None, **changes: Any
) -> Plan:
    """A plan of servers with the scripted engine; monolithic without context servers, `http` for a front end."""
    servers: dict[str, Any] = {"servers": section(generations, fraction=0.05)}
    if contexts:
        servers = {
            "context_servers": section(contexts, fraction=0.05),
            "generation_servers": section(generations, fraction=0.05),
        }
    made = plan(topology(router={"policy": policy, "http": http}, engine="reference", **servers), Target.LOCAL)
    return replace(made, engine="scripted", **changes)


@dataclass
class Running:
    """A program of the run in this process; `stop` is its TERM."""

    task: asyncio.Task[None]
    stop: asyncio.Event
    engine: ScriptedEngine = field(default_factory=ScriptedEngine)

    async def end(self) -> None:
        """Stop it and wait; raises what it raised."""
        self.stop.set()
        await within(SECONDS, _result(self.task))


async def _result(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})
    task.result()


@dataclass
class Caller:
    """Sends calls as they are and keeps what comes back, without the care that a real requester takes."""

    nats: Client
    inbox: str
    messages: list[StreamMessage] = field(default_factory=list)

    @classmethod
    async def at(cls, nats: Client) -> Caller:
        """A caller with an inbox of its own."""
        caller = cls(nats, nats.new_inbox())
        await nats.subscribe(caller.inbox, cb=caller._take)
        return caller

    async def _take(self, message: Msg) -> None:
        self.messages.append(decode_stream(message.data))

    async def call(self, instance: Instance, prompt: str, **fields: Any) -> Accepted | Failure:
        """Call a server; what it says to that."""
        given = {"request_id": secrets.token_hex(8), "attempt": 0, "window": 1000, "timeout": 30.0}
        made = GenerateCall(**{**given, "inbox": self.inbox, "sampling": greedy(), "prompt": prompt, **fields})
        return decode_answer((await self.nats.request(instance.subject, made.encode(), 60)).data)

    @property
    def chunks(self) -> list[Chunk]:
        """The chunks that came."""
        return [one for one in self.messages if isinstance(one, Chunk)]

    @property
    def beats(self) -> list[Heartbeat]:
        """The heartbeats that came."""
        return [one for one in self.messages if isinstance(one, Heartbeat)]

    @property
    def failures(self) -> list[Failure]:
        """The failures that came."""
        return [one for one in self.messages if isinstance(one, Failure)]

    async def finished(self) -> Chunk:
        """The last chunk of an answer, whose chunks came in order and without a gap."""
        await until(lambda: bool(self.failures) or any(one.finish_reason is not None for one in self.chunks), SECONDS)
        assert not self.failures, self.failures
        assert [one.seq for one in self.chunks] == list(range(len(self.chunks)))
        return self.chunks[-1]

    async def failed(self) -> Failure:
        """The failure that ended the stream."""
        await until(lambda: bool(self.failures), SECONDS)
        return self.failures[0]


@dataclass
class Deployment:
    """A run directory with the addresses of real services, and what runs in it."""

    config: RunConfig
    plan: Plan
    nats: Client
    watcher: Watcher
    tasks: list[Running] = field(default_factory=list)

    @property
    def run(self) -> RunDir:
        """The run directory."""
        return self.config.run

    async def worker(self, name: str, drain: float = 0.3, reuse_tokens: int = 0) -> tuple[Running, Instance]:
        """A server of the plan with a scripted engine, registered; the engine says that it reuses so many tokens."""
        engine = ScriptedEngine()
        engine.reuse_tokens = reuse_tokens
        await engine.start()
        events, server = EventWriter(self.run.event_file(f"server.{name}")), self.plan.server(name)
        running = self._start(lambda stop: serve(self.config, server, engine, events, stop, drain))
        running.engine = engine
        return running, await self.instance(name)

    async def router(self) -> tuple[Running, Instance]:
        """The router, registered."""
        events = EventWriter(self.run.event_file("router"))
        return self._start(lambda stop: route(self.config, self.plan, events, stop)), await self.instance("router")

    async def all(self) -> dict[str, Running]:
        """Every server of the plan and the router, by name."""
        found = {server.name: (await self.worker(server.name))[0] for server in self.plan.servers}
        return {**found, "router": (await self.router())[0]}

    async def instance(self, name: str) -> Instance:
        """The instance of that server, once it is registered."""
        seen = await self.watcher.wait_for(lambda snapshot: snapshot.server(name) is not None, SECONDS, name)
        found = seen.server(name)
        assert found is not None
        return found

    async def gone(self, name: str) -> None:
        """Return when the server is registered no more."""
        await self.watcher.wait_for(lambda snapshot: snapshot.server(name) is None, SECONDS, f"the end of {name}")

    def events(self) -> list[Event]:
        """All events of the run."""
        return [record.event for record in EventReader(self.run.events).poll()]

    def process(self, module: str, **environ: str) -> Process:
        """A program of the run as the rendered files start it, without the shim."""
        return Process.start(self.run, module, environ)

    def _start(self, work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> Running:
        stop = asyncio.Event()
        running = Running(asyncio.ensure_future(work(stop)), stop)
        self.tasks.append(running)
        return running


@dataclass
class Process:
    """A program of the run; its output is kept in a file."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, run: RunDir, module: str, environ: Mapping[str, str]) -> Process:
        """`python -m MODULE RUN_DIR` with the run's own `site/`."""
        log = run.log(f"{module}.{secrets.token_hex(4)}")
        site = {"PYTHONPATH": str(run.site), "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(run.path)],
                env={**os.environ, **site, **environ},
                cwd=run.site,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )
        return cls(process, log)

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text()

    def term(self) -> None:
        """Ask it to end."""
        self.process.send_signal(signal.SIGTERM)

    async def exit_code(self) -> int:
        """Its exit code, once it has ended."""
        await until(lambda: self.process.poll() is not None, SECONDS)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait(60)


@contextlib.asynccontextmanager
async def deployment(
    folder: Path, nats_server: NatsServer, etcd_server: EtcdServer, made: Plan
) -> AsyncIterator[Deployment]:
    """A deployment in which nothing runs yet; what the test leaves running is stopped at the end."""
    config = RunConfig.load(_run_dir(folder, nats_server, etcd_server, made))
    async with contextlib.AsyncExitStack() as stack:
        login = (config.nats_url, config.nats_user, config.nats_password)
        client = await stack.enter_async_context(connection(*login, "a test", report=lambda said: None))
        etcd = await stack.enter_async_context(EtcdClient([etcd_server.endpoint]))
        watcher = await stack.enter_async_context(Watcher(etcd, f"{config.namespace}/components/"))
        deployed = Deployment(config, made, client, watcher)
        stack.push_async_callback(_end_all, deployed.tasks)
        yield deployed


async def _end_all(tasks: list[Running]) -> None:
    for running in reversed(tasks):
        if not running.task.done():
            await running.end()


def _run_dir(folder: Path, nats_server: NatsServer, etcd_server: EtcdServer, made: Plan) -> Path:
    run = RunDir(folder / f"test-{secrets.token_hex(6)}")
    for made_folder in (run.path, run.events, run.logs, run.secrets):
        made_folder.mkdir()
    run.plan.write_text(to_json(made))
    values = {"NATS_SERVER": nats_server.url, "ETCD_ENDPOINTS": etcd_server.endpoint}
    if made.http is not None:
        port = made.http.port or free_ports(1)[0]
        values |= {"TRTDIST_HTTP_PORT": str(port), "TRTDIST_HTTP_URL": f"http://127.0.0.1:{port}"}
    run.resolved_env.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))
    (run.secrets / "nats.user").write_text(nats_server.user)
    (run.secrets / "nats.password").write_text(nats_server.password)
    return run.path


def fill_site(run: RunDir) -> None:
    """Make `site/` hold what programs import, and the scripted engine beside the real ones."""
    package = Path(trtdist.__file__).parent
    engines = run.site / "trtdist" / "engines"
    engines.mkdir(parents=True)
    (run.site / "nats").symlink_to(Path(nats.__file__).parent)
    for source in package.iterdir():
        if source.name != "engines":
            (run.site / "trtdist" / source.name).symlink_to(source)
    for source in (package / "engines").iterdir():
        (engines / source.name).symlink_to(source)
    (engines / "scripted.py").symlink_to(scripted_engine.__file__)
