"""The one subscription through which a requester gets everything that is meant for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from nats import errors
from nats.aio.msg import Msg

from trtdist.serving.attempt import Attempt, RequestError
from trtdist.serving.direct import DirectClient

__all__ = ["Inbox"]


class Inbox:
    """Gives each message to the attempt it is for, and drops what comes for one that is over.

    An attempt has the subject `{prefix}.{number}` for its stream, and `{prefix}.{number}.{kind}` for answers. The
    credits bound what can wait here, so the subscription itself has no limit that would drop messages.
    """

    def __init__(self, client: DirectClient) -> None:
        self._client = client
        self._prefix = client.new_inbox()
        self._attempts: dict[str, Attempt] = {}
        self._unsettled: set[Attempt] = set()
        self._count = 0
        self._echo = client.new_inbox()
        self._echoed = True

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts that receive now."""
        return tuple(self._attempts.values())

    async def subscribe(self) -> None:
        """Begin to receive."""
        await self._client.subscribe(self._echo, cb=self._came_back)
        subject = f"{self._prefix}.>"
        await self._client.subscribe_directly(subject, self._arrived, self._read)

    @contextlib.contextmanager
    def receiving(self, attempt: Attempt) -> Iterator[str]:
        """The subject of an attempt, received while in `with`."""
        self._count += 1
        subject = f"{self._prefix}.{self._count}"
        self._attempts[subject] = attempt
        try:
            yield subject
        finally:
            del self._attempts[subject]

    async def nats_answered(self) -> bool:
        """Whether NATS has brought back what this sent at its last call; sends the next."""
        echoed, self._echoed = self._echoed, False
        with contextlib.suppress(RequestError):
            await self.send(self._echo, b"")
        return echoed

    async def send(self, subject: str, data: bytes, reply: str = "") -> None:
        """Publish; RequestError `too_large` or `unavailable` when that is not possible."""
        most = self._client.max_payload
        if len(data) > most:
            raise RequestError(
                "too_large", f"the request has {len(data)} bytes and NATS takes at most {most}: shorten the prompt"
            )
        try:
            await self._client.publish(subject, data, reply)
        except errors.Error as error:
            raise RequestError("unavailable", f"the connection to NATS takes no message ({error})") from None

    def _arrived(self, subject: str, data: bytes, status: str) -> None:
        # Nearly all are of a stream, whose subject is the attempt's own.
        attempt, kind = self._attempts.get(subject), ""
        if attempt is None:
            subject, _, kind = subject.rpartition(".")
            attempt = self._attempts.get(subject)
        if attempt is not None:
            attempt.deliver(kind, data, status)
            self._unsettled.add(attempt)

    def _read(self) -> None:
        try:
            while self._unsettled:
                self._unsettled.pop().settle()
        finally:
            if self._unsettled:
                # What one of them raises costs the others nothing.
                asyncio.get_running_loop().call_soon(self._read)

    async def _came_back(self, message: Msg) -> None:
        self._echoed = True
