"""`trtdist forward`: a port of this machine that leads to a service of a run."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import click

from trtdist import chain
from trtdist.cli.beside import Place, ended, environment, head
from trtdist.cli.progress import say
from trtdist.errors import InputError, TrtdistError
from trtdist.observe.runs import find_run
from trtdist.observe.snapshot import RunReader, Snapshot
from trtdist.services.envfile import read_env_or_nothing
from trtdist.supervisor.relay import CONNECTED, FAILED

__all__ = ["Forwarder", "command"]

_CHUNK = 64 * 1024
# A relayed line holds 48 KiB in base64.
_LINE = 256 * 1024
# Each connection is a step of the job; Slurm's controller is there for others too.
_MOST = 32
_LOOK_S = 1.0
# In resolved.env; the port of a service of the run's own is there as well.
_ADDRESSES = {"nats": "NATS_SERVER", "etcd": "ETCD_ENDPOINTS", "http": "TRTDIST_HTTP_URL"}


@click.command("forward")
@click.argument("run", required=False)
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="The local port.  [default: a free one]")
@click.option(
    "--to",
    "service",
    type=click.Choice([*_ADDRESSES]),
    help="Which one.  [default: nats, or http for runtimes that speak HTTP alone]",
)
def command(run: str | None, port: int, service: str | None) -> None:
    """Open a port on 127.0.0.1 that leads to a service of a run, until Ctrl-C.

    For machines that reach the nodes of a run through Slurm alone: each connection is carried by a step of the run's
    job. The address is the first line of standard output. When another run takes over from this one, new connections
    lead there, and wait for it where this one has ended before.

    The exit code is 0 after Ctrl-C, and 1 when the run has ended.
    """
    reader = RunReader(chain.newest(find_run(run, os.environ)))
    snapshot = reader.look()
    chosen = service or ("http" if snapshot.plan.over_http else "nats")
    asyncio.run(_serve(_Way(reader, chosen, Forwarder.of(snapshot, chosen)), port))


@dataclass(frozen=True)
class Forwarder:
    """Carries connections to `address` (a URL) with relays that `argv` starts, in the environment `environ`."""

    address: str
    argv: tuple[str, ...]
    environ: dict[str, str]

    @classmethod
    def of(cls, snapshot: Snapshot, service: str) -> Forwarder:
        """To a service of a run; InputError when the run is not up, or does not have the service, or not as its own."""
        place = head(snapshot)
        env = read_env_or_nothing(snapshot.run.resolved_env)
        url = env.get(_ADDRESSES[service], "")
        if not url:
            raise InputError(f"run {snapshot.run.run_id} has no {service}: see `trtdist url` for what it has")
        parts = urlsplit(url)
        if f"TRTDIST_{service.upper()}_PORT" not in env or parts.hostname is None:
            raise InputError(f"{service} of run {snapshot.run.run_id} is not its own: connect to {url}")
        return cls(
            url, tuple(_relay(snapshot, place, env, parts.hostname, parts.port)), environment(snapshot, os.environ)
        )

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Carry one connection to its end; returns what went wrong, "" for nothing."""
        process = await asyncio.create_subprocess_exec(
            *self.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environ,
            limit=_LINE,
            start_new_session=True,
        )
        assert process.stdout is not None and process.stderr is not None and process.stdin is not None
        complaints = asyncio.ensure_future(process.stderr.read())
        sending = asyncio.ensure_future(_send(reader, process.stdin))
        try:
            problem = await _receive(process.stdout, writer)
        finally:
            sending.cancel()
            process.stdin.close()
            await ended(process)
            said = (await complaints).decode("utf-8", "replace")
        return problem or (" ".join(said.split()) if process.returncode else "")


class _Way:
    """Where new connections are led: to a service of a run, or of the one that has taken over from it."""

    def __init__(self, reader: RunReader, service: str, forwarder: Forwarder) -> None:
        self._reader = reader
        self._service = service
        self._next: RunReader | None = None
        self._turning = asyncio.Lock()
        self.forwarder = forwarder

    async def look(self) -> Snapshot:
        """The run as it is now, after a turn to the one that has taken over."""
        # In a thread, since it may ask Slurm, and connections go on meanwhile.
        async with self._turning:
            return await asyncio.to_thread(self._look)

    def _look(self) -> Snapshot:
        run = chain.newest(self._reader.run)
        if run == self._reader.run:
            return self._reader.look()
        reader = RunReader(run)
        snapshot = reader.look()
        if not snapshot.final:
            self.forwarder = Forwarder.of(snapshot, self._service)
            say(f"leads to {self.forwarder.address} now: {run.run_id} has taken over")
        self._reader = reader
        return snapshot

    async def comes(self) -> bool:
        """Whether a run is on its way that will take over from the one that has ended."""
        async with self._turning:
            return await asyncio.to_thread(self._comes)

    def _comes(self) -> bool:
        run = self._reader.run
        after = chain.awaited(run)
        if after is None:
            return chain.heir(run) is not None
        if self._next is None or self._next.run != after:
            self._next = RunReader(after)
            say(f"{run.run_id} has ended: new connections wait for {after.run_id}, which is to take over")
        return not self._next.look().final

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Carry one connection to its end; returns what went wrong, "" for nothing."""
        while self._reader.run.verdict.exists() and chain.awaited(self._reader.run) is not None:
            await asyncio.sleep(_LOOK_S)
        if chain.newest(self._reader.run) != self._reader.run:
            await self.look()
        return await self.forwarder.carry(reader, writer)


def _relay(snapshot: Snapshot, place: Place, env: dict[str, str], host: str, port: int | None) -> list[str]:
    program = snapshot.run.site / "trtdist" / "supervisor" / "relay.py"
    return place.command([env["TRTDIST_PYTHON"], "-I", "-S", str(program), host, str(port)], name="forward")


async def _serve(way: _Way, port: int) -> None:
    """Listen until a signal ends it; TrtdistError when the run has ended."""
    stop = asyncio.Event()
    with _signals(stop):
        slots = asyncio.Semaphore(_MOST)
        open_now: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(_connection(way, slots, reader, writer))
            open_now.add(task)
            task.add_done_callback(open_now.discard)

        try:
            server = await asyncio.start_server(accept, "127.0.0.1", port)
        except OSError as error:
            raise TrtdistError(f"port {port} of 127.0.0.1 cannot be used: {error.strerror}; choose another") from error
        scheme = urlsplit(way.forwarder.address).scheme
        click.echo(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        say(f"leads to {way.forwarder.address}, until Ctrl-C")
        try:
            await _until(stop, way)
        finally:
            server.close()
            for task in open_now:
                task.cancel()
            await asyncio.gather(*open_now, return_exceptions=True)


async def _until(stop: asyncio.Event, way: _Way) -> None:
    """Return when asked to stop; TrtdistError when the run has ended and none is to take over."""
    while not stop.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), _LOOK_S)
        snapshot = await way.look()
        if snapshot.final and not stop.is_set() and not await way.comes():
            how = f"run {snapshot.run.run_id} is {snapshot.status.state}"
            raise TrtdistError(f"{how}: nothing is left to lead to; `trtdist status` says why")


async def _connection(
    way: _Way, slots: asyncio.Semaphore, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        async with slots:
            problem = await way.carry(reader, writer)
        if problem:
            say(f"trtdist: a connection ended: {problem}")
    except (OSError, TrtdistError) as error:
        say(f"trtdist: a connection failed: {error}")
    finally:
        writer.close()


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.close()


async def _receive(lines: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Pass on what comes from the port until it ends; returns why it never opened. Other lines are not the relay's."""
    opened = False
    with contextlib.suppress(OSError):
        while line := await lines.readline():
            text = line.strip()
            if not opened:
                opened = text == CONNECTED.encode()
                if text.startswith(FAILED.encode()):
                    return f"the head node cannot connect: {text.decode('utf-8', 'replace')[len(FAILED) + 1 :]}"
                continue
            with contextlib.suppress(binascii.Error):
                writer.write(base64.b64decode(text, validate=True))
                await writer.drain()
    return "" if opened else "the relay did not start"


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
