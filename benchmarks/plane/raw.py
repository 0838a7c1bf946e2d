"""`python -m benchmarks.plane.raw RUN_DIR`: what NATS itself can do, from one publisher to one subscriber.

The publisher gets a number and an inbox, and publishes so many messages of the size of a chunk; the subscriber counts
them by callback. Nobody decodes anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks.plane.pretend import TEXT
from trtdist.bench.record import Reply
from trtdist.bench.workload import Request
from trtdist.errors import TrtdistError
from trtdist.serving.nats_connection import connection
from trtdist.serving.program import run_until_stopped
from trtdist.serving.protocol import Chunk
from trtdist.serving.run_config import RunConfig

__all__ = ["RawTarget", "raw_target"]

SUBJECT, PING = "benchmark.raw", "benchmark.ping"
CHUNK = Chunk(0, 100, (100,), TEXT).encode()
# As the worker does, so that several answers advance together.
IN_A_ROW = 32


class RawTarget:
    """The subscriber, as a target of load; made by `raw_target`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._open: dict[str, tuple[list[float], int, asyncio.Future[None]]] = {}

    async def listen(self) -> None:
        """Subscribe."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._take, pending_msgs_limit=0, pending_bytes_limit=0)
        await self._client.flush()

    async def ask(self, request: Request) -> Reply:
        """Have as many messages published as tokens are asked for."""
        pieces: list[float] = []
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        number = str(request.number)
        self._open[number] = (pieces, request.output_tokens, done)
        sent = time.perf_counter()
        await self._client.publish(SUBJECT, str(request.output_tokens).encode(), f"{self._inbox}.{number}")
        await done
        del self._open[number]
        return Reply(sent, time.perf_counter(), pieces, len(pieces), None, "length")

    async def _take(self, message: Msg) -> None:
        pieces, expected, done = self._open[message.subject[len(self._inbox) + 1 :]]
        pieces.append(time.perf_counter())
        if len(pieces) == expected:
            done.set_result(None)


@contextlib.asynccontextmanager
async def raw_target(config: RunConfig) -> AsyncIterator[RawTarget]:
    """A subscriber with a connection of its own; TrtdistError while there is no publisher."""
    login = config.nats_user, config.nats_password
    async with connection(config.nats_url, *login, "raw subscriber", tls=config.nats_tls) as client:
        try:
            await client.request(PING, b"", 5)
        except errors.Error:
            raise TrtdistError("the publisher does not answer") from None
        target = RawTarget(client)
        await target.listen()
        yield target


async def _publish(config: RunConfig, stop: asyncio.Event) -> None:
    login = config.nats_user, config.nats_password
    async with connection(config.nats_url, *login, "raw publisher", tls=config.nats_tls) as client:
        tasks: set[asyncio.Task[None]] = set()

        async def answer(inbox: str, count: int) -> None:
            for number in range(count):
                await client.publish(inbox, CHUNK)
                if number % IN_A_ROW == IN_A_ROW - 1:
                    await asyncio.sleep(0)

        async def take(message: Msg) -> None:
            task = asyncio.ensure_future(answer(message.reply, int(message.data)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        async def pong(message: Msg) -> None:
            await message.respond(b"")

        await client.subscribe(SUBJECT, cb=take)
        await client.subscribe(PING, cb=pong)
        await client.flush()
        await stop.wait()


if __name__ == "__main__":
    config_of_run = RunConfig.load(Path(sys.argv[1]))
    run_until_stopped(lambda stop: _publish(config_of_run, stop))
