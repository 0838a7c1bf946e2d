"""nats-py's client with a short way for what comes and goes most often: no queue or task between it and the socket."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from functools import lru_cache
from types import TracebackType
from typing import Any, cast

from nats import errors
from nats.aio.client import DEFAULT_FLUSH_TIMEOUT, Client
from nats.aio.msg import Msg
from nats.protocol.parser import AWAITING_CONTROL_LINE, CRLF_SIZE, Parser

__all__ = ["DirectClient", "Taker"]

# Gets the subject, the data, and what NATS itself says: `503` when nobody listens, else "".
Taker = Callable[[str, bytes, str], None]

# While the socket has not taken as much, nats-py's flusher sends, which waits for it.
_UNSENT = 64 * 1024

# Before a message without reply and headers, as the NATS server writes it; nobody has numbers longer than that.
_LINE = re.compile(rb"MSG (\S+) ([0-9]{1,18}) ([0-9]{1,18})")
# The messages of a stream differ little in size, so that most lines have come before.
_LINES = 8192


class DirectClient(Client):
    """A client whose `subscribe_directly` costs a fifth per message of what `subscribe` does, and whose `publish` sends
    sooner and whose `flush` sends everything.

    It replaces nats-py's parser, overrides methods, and reads and writes at its transport, which are not part of
    nats-py's interface: a new major version may lack them. Where they are there and not used, messages come through the
    subscription, as they do for messages with headers. It also logs in to nobody who does not speak TLS where that is
    asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ps = _Parser(self)
        # Set when nats-py has used that parser.
        self._take: Callable[[bytes], bytes] | None = None
        self._takers: dict[int, Taker] = {}
        self._after_read: dict[int, Callable[[], None]] = {}
        self._same_turn = False
        self._reading = _Reading(self)
        self._breaks = asyncio.Event()

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """As nats-py's; the first message in a turn of the event loop goes out at once, others together after it."""
        socket = self._free_socket()
        if socket is None or headers or len(payload) > self._max_payload or not _plain(subject, reply):
            await super().publish(subject, payload, reply, headers)
            return
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        command = b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload)
        if not self._same_turn:
            self._same_turn = True
            asyncio.get_running_loop().call_soon(self._turn_ends)
            if not self._pending:
                socket.write(command)
                return
        await self._send_command(command)

    async def subscribe_directly(self, subject: str, taker: Taker, after_read: Callable[[], None]) -> None:
        """Have `taker` called for each message, in order, and `after_read` once all that came with it were taken.

        Neither may keep the event loop for long, and neither should raise: where one does, what came with the same read
        and was not taken yet is lost, and the connection is made anew. There is no limit to what may wait.
        """

        async def take(message: Msg) -> None:
            taker(message.subject, message.data, (message.headers or {}).get("Status", ""))
            after_read()

        subscription = await self.subscribe(subject, cb=take, pending_msgs_limit=0, pending_bytes_limit=0)
        self._takers[subscription._id] = taker
        self._after_read[subscription._id] = after_read

    async def flush(self, timeout: int = DEFAULT_FLUSH_TIMEOUT) -> None:
        """As nats-py's, whose PING goes ahead of what is pending: a subscription would not be known to the server yet
        when this returns."""
        socket = self._open_socket()
        if self._pending and socket is not None:
            self._send_pending(socket)
        await super().flush(timeout)

    def _open_socket(self) -> asyncio.WriteTransport | None:
        """What can be written to: what is written to a connection that ends would be lost."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is None or not self.is_connected:
            return None
        socket: asyncio.WriteTransport = writer.transport
        return None if socket.is_closing() else socket

    def _free_socket(self) -> asyncio.WriteTransport | None:
        """What can be written to without waiting, None when nothing can or nats-py has to say why."""
        socket = None if self.is_draining_pubs else self._open_socket()
        return None if socket is None or socket.get_write_buffer_size() > _UNSENT else socket

    def _send_pending(self, socket: asyncio.WriteTransport) -> None:
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        # TLS makes a record of each part that it gets.
        socket.write(b"".join(pending))

    def _turn_ends(self) -> None:
        self._same_turn = False
        if not self._pending:
            return
        socket = self._free_socket()
        if socket is not None:
            self._send_pending(socket)
        elif self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    async def _process_connect_init(self) -> None:
        """Whoever has the port may say anything there, in clear and before any proof: it must end in an error that is
        nats-py's own, or nobody tries again."""
        with contextlib.ExitStack() as unless_open:
            unless_open.callback(self.abandon)
            try:
                await super()._process_connect_init()
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise errors.Error(f"nats: what has the port does not greet as a NATS server does ({error})") from None
            self._read_at_once()
            unless_open.pop_all()

    def _read_at_once(self) -> None:
        reader, writer = (getattr(self._transport, name, None) for name in ("_io_reader", "_io_writer"))
        if reader is not None and writer is not None:
            socket: asyncio.Transport = writer.transport
            socket.set_protocol(_AtOnce(self, reader, cast(asyncio.Protocol, socket.get_protocol())))

    async def until_broken(self) -> None:
        """Return when the connection breaks; one that has broken before and was made anew does not count."""
        self._breaks.clear()
        await self._breaks.wait()

    def forget_pings(self) -> None:
        """Have nobody wait for an answer of the server any more: `flush` is cancelled."""
        pongs, self._pongs = self._pongs, []
        for pong in pongs:
            pong.cancel()

    async def _process_op_err(self, error: Exception) -> None:
        self._breaks.set()
        await super()._process_op_err(error)

    def abandon(self) -> None:
        """End a connection that was not made, or is broken, at once. nats-py would wait for its end, of which asyncio
        does not tell when TLS had begun and was not through, and which a server that hangs does not confirm."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            # One with TLS that was closed twice knows of no connection any more, and cannot be aborted (Python 3.11).
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
            vars(self._transport)["_io_writer"] = None

    def _connect_command(self) -> bytes:
        """The login. nats-py leaves it to the server whether to speak TLS, even where the client has been given
        certificates; so a foreign server would be told the password."""
        assert self._current_server is not None
        wanted = self.options.get("tls") is not None or self._current_server.uri.scheme == "tls"
        if wanted and not self._server_info.get("tls_required"):
            raise errors.Error("nats: what has the port speaks no TLS, so it is not the server of this run")
        return super()._connect_command()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        taker = None if headers else self._takers.get(sid)
        if taker is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            taker(subject.decode(), data, "")
            self._after_read[sid]()

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._takers.pop(sid, None)
        self._after_read.pop(sid, None)


class _Reading:
    """While in `with`, something is made of what came: if that fails, the connection is made anew.

    nats-py does so where the network or the protocol fails. Of any other error its task ends, and the connection would
    be there and unread until its pings had remained without an answer.
    """

    def __init__(self, client: DirectClient) -> None:
        self._client = client
        self._ending: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        """Nothing to prepare: this comes with each read."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self._ending = asyncio.ensure_future(self._client._process_op_err(error))


class _Parser(Parser):
    """Gives whole messages to their takers, and leaves everything else to nats-py."""

    nc: DirectClient

    def reset(self) -> None:
        """Forget what is not whole, of a connection that is over."""
        super().reset()
        # What a message that has a taker lacks, so that a large one is not copied at each read.
        self._missing = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take what came with one read; what is not whole waits for the next."""
        self.nc._take = self.take
        with self.nc._reading:
            rest = self.take(data)
            if rest:
                await super().parse(rest)

    def take(self, data: bytes) -> bytes:
        """What is left for nats-py after the messages in front that have takers."""
        if self.state != AWAITING_CONTROL_LINE:
            return data
        if self.buf:
            if len(data) < self._missing:
                self._missing -= len(data)
                self.buf.extend(data)
                return b""
            self._missing = 0
            data = bytes(self.buf) + data
            self.buf.clear()
        takers, at = self.nc._takers, 0
        try:
            while (end := data.find(b"\r\n", at)) > 0:
                subject, sid, size = _read_line(data[at:end])
                taker = takers.get(sid)
                if taker is None:
                    break
                begin = end + CRLF_SIZE
                end = begin + size
                if end + CRLF_SIZE > len(data):
                    self._missing = end + CRLF_SIZE - len(data)
                    self.buf.extend(data[at:])
                    data = data[:at]
                    break
                taker(subject, data[begin:end], "")
                at = end + CRLF_SIZE
        finally:
            if at:
                for after_read in self.nc._after_read.values():
                    after_read()
        return data[at:]


class _AtOnce(asyncio.Protocol):
    """Between a connection and nats-py's stream: has messages taken where they are received.

    What nats-py has to see wakes its task through the stream, as ever, and as long as that is at work all goes there.
    """

    def __init__(self, client: DirectClient, reader: asyncio.StreamReader, stream: asyncio.Protocol) -> None:
        self._client = client
        self._reader = reader
        self._stream = stream

    def data_received(self, data: bytes) -> None:
        take = self._client._take
        # A task that waits has parsed all that came before.
        if take is not None and self._client.is_connected and getattr(self._reader, "_waiter", None) is not None:
            with self._client._reading:
                data = take(data)
        if data:
            self._stream.data_received(data)

    def eof_received(self) -> bool | None:
        return self._stream.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._stream.connection_lost(error)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()


def _plain(subject: str, reply: str) -> bool:
    """Whether they are nothing but subjects: no space or line break, which would end them."""
    both = subject + reply
    return bool(subject) and both.isprintable() and " " not in both


@lru_cache(_LINES)
def _read_line(line: bytes) -> tuple[str, int, int]:
    """The subject, the subscription's number and the size of the message; number 0, which none has, for other lines."""
    found = _LINE.fullmatch(line)
    return (found[1].decode("utf-8", "replace"), int(found[2]), int(found[3])) if found else ("", 0, 0)
