"""A connection to the run's NATS server with options that fit a deployment, and one sentence in place of tracebacks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import sys
import time
from collections.abc import AsyncIterator
from typing import Callable

from nats import errors

from trtdist.errors import TrtdistError
from trtdist.serving.direct import DirectClient
from trtdist.serving.waiting import end_task, first_of, within

__all__ = ["NatsError", "confirm", "connect", "connection", "disconnect", "report_to_stderr"]

RECONNECT_PAUSE_S = 0.2
RECONNECT_ATTEMPTS = 50
PING_EVERY_S, PINGS_UNANSWERED = 5, 2
CONNECT_TRY_S = 2
PENDING_BYTES = 16 * 1024 * 1024
FLUSH_S, DRAIN_S = 2, 5
CLOSE_S, FORGET_S = 1, 0.5
_FOR_EVER_S = 86_400


class NatsError(TrtdistError):
    """The NATS server cannot be reached, or refuses the credentials."""


def report_to_stderr(sentence: str) -> None:
    """Say it in the program's own log, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)


async def connect(
    url: str,
    user: str,
    password: str,
    name: str,
    report: Callable[[str], None] = report_to_stderr,
    lost: Callable[[], None] = lambda: None,
    seconds: float = 5.0,
    tls: ssl.SSLContext | None = None,
) -> DirectClient:
    """Connect within `seconds`, trying again while the server is not there yet; NatsError when it stays away.

    `name` shows in the server's monitoring. A broken connection is taken up again for 10 s; what is published
    meanwhile waits, up to 16 MiB. `report` gets a sentence for each thing that goes wrong; `lost` is called once
    when the connection is given up for good, or closed. `tls` holds the trust and the client's certificate for a
    server that asks for them; the system's trust is used when it is None.
    """
    # Of a connection that nats-py has changed over to TLS, asyncio complains whenever the server closes it.
    logging.getLogger("asyncio").addFilter(_not_about_eof)
    watcher = _Watcher(report, lost)
    try:
        return await within(seconds, _open(url, user, password, name, watcher, tls))
    except errors.NoServersError:
        raise NatsError(f"NATS at {url} cannot be reached ({watcher.last}): is it running?") from None
    except asyncio.TimeoutError:
        reason = f" ({watcher.last})" if watcher.last else ""
        raise NatsError(f"NATS at {url} did not answer within {seconds:g} s{reason}: is it running?") from None


async def confirm(client: DirectClient, seconds: float) -> None:
    """Return once the server has taken all that was sent to it, also one that has come back meanwhile; NatsError when
    that is not within `seconds`."""
    try:
        await within(seconds, _confirm(client))
    except (errors.Error, OSError, asyncio.TimeoutError) as error:
        raise NatsError(str(error) or f"it was silent for {seconds:g} s") from None


async def _confirm(client: DirectClient) -> None:
    confirmed = False
    while not confirmed:
        # nats-py asks nobody while the connection is made anew, and takes up subscriptions when it is.
        while not client.is_connected and not client.is_closed:
            await asyncio.sleep(RECONNECT_PAUSE_S / 2)
        confirmed = await first_of(_flushed(client), _broken(client))


async def _flushed(client: DirectClient) -> bool:
    await client.flush(_FOR_EVER_S)
    return True


async def disconnect(client: DirectClient) -> None:
    """Deliver what was published and handle what has arrived, then close; closes at once when that cannot be done, or
    when the connection breaks meanwhile."""
    if client.is_closed:
        return
    try:
        delivered = await first_of(_deliver(client), _broken(client))
    except (errors.Error, OSError, asyncio.TimeoutError):
        delivered = False
    if delivered:
        return
    client.abandon()
    closing = asyncio.ensure_future(client.close())
    try:
        await asyncio.wait({closing}, timeout=CLOSE_S)
    finally:
        # A task of nats-py's that closing cancels can take it along; of a broken connection, nothing is missed.
        await end_task(closing)


async def _broken(client: DirectClient) -> bool:
    await client.until_broken()
    return False


async def _deliver(client: DirectClient) -> bool:
    """Drain; asyncio.TimeoutError where a connection that breaks meanwhile cancels what nats-py itself waits for."""
    # nats-py waits long for a server that does not answer, so it drains only with one that does.
    await within(FLUSH_S, client.flush())
    draining = asyncio.ensure_future(client.drain())
    try:
        await asyncio.wait({draining})
    finally:
        client.forget_pings()
        await asyncio.wait({draining}, timeout=FORGET_S)
        await end_task(draining)
    if draining.cancelled():
        raise asyncio.TimeoutError
    with contextlib.suppress(AttributeError):
        # What asyncio makes of writing with TLS to a connection that has ended (Python 3.11).
        draining.result()
    return client.is_closed


@contextlib.asynccontextmanager
async def connection(
    url: str,
    user: str,
    password: str,
    name: str,
    report: Callable[[str], None] = report_to_stderr,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[DirectClient]:
    """A connection while in `async with`; drained at the end."""
    client = await connect(url, user, password, name, report, tls=tls)
    try:
        yield client
    finally:
        await disconnect(client)


def _not_about_eof(record: logging.LogRecord) -> bool:
    return "eof_received" not in str(record.msg)


class _Watcher:
    """What nats-py tells about a connection, as sentences, each once until another comes."""

    def __init__(self, report: Callable[[str], None], lost: Callable[[], None]) -> None:
        self.client = DirectClient()
        self._report = report
        self._lost = lost
        self.last = ""
        self.connected = False

    async def failed(self, error: Exception) -> None:
        sentence = str(error).strip() or type(error).__name__
        if not self.connected and "authorization violation" in sentence.lower():
            raise NatsError("NATS refuses the user and password: are these the credentials of this run?")
        if self.connected and sentence != self.last:
            self._report(f"NATS: {sentence}")
        self.last = sentence

    async def disconnected(self) -> None:
        if self.client.is_reconnecting:
            self._report("NATS: the connection is broken, trying again")

    async def reconnected(self) -> None:
        self.last = ""
        self._report("NATS: connected again")

    async def closed(self) -> None:
        if self.connected:
            self.connected = False
            self._lost()


async def _open(
    url: str, user: str, password: str, name: str, watcher: _Watcher, tls: ssl.SSLContext | None
) -> DirectClient:
    client = watcher.client
    async with contextlib.AsyncExitStack() as unless_open:
        unless_open.push_async_callback(client.close)
        await client.connect(
            servers=[url],
            name=name,
            user=user or None,
            password=password or None,
            tls=tls,
            error_cb=watcher.failed,
            disconnected_cb=watcher.disconnected,
            reconnected_cb=watcher.reconnected,
            closed_cb=watcher.closed,
            connect_timeout=CONNECT_TRY_S,
            reconnect_time_wait=RECONNECT_PAUSE_S,  # type: ignore[arg-type]
            max_reconnect_attempts=RECONNECT_ATTEMPTS,
            ping_interval=PING_EVERY_S,
            max_outstanding_pings=PINGS_UNANSWERED,
            drain_timeout=DRAIN_S,
            pending_size=PENDING_BYTES,
        )
        unless_open.pop_all()
    watcher.connected = True
    watcher.last = ""
    return client
