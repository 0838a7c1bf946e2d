"""Puts load on a target: so many requests at the same time, or each at its time."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass, field

from trtdist.bench.record import Record, Reply, problem
from trtdist.bench.targets import Target
from trtdist.bench.workload import Request
from trtdist.errors import TrtdistError

__all__ = ["MAX_OPEN", "Load", "Run", "put_load"]

MAX_OPEN = 20_000


@dataclass(frozen=True)
class Load:
    """How requests are sent.

    `concurrency` requests are open at any time; None sends each at its own time (open loop). It ends after `count`
    requests or when none is begun any more after `seconds`, whichever comes first. The first `warm_up` are sent and
    not measured. `exact` is set when the server was told to ignore the end of an answer.
    """

    concurrency: int | None
    count: int | None = None
    seconds: float | None = None
    warm_up: int = 0
    exact: bool = False


@dataclass
class Run:
    """A load under way: what was sent, what is open, and the records of what is over."""

    started: float = field(default_factory=time.perf_counter)
    sent: int = 0
    records: list[Record] = field(default_factory=list)
    warm_up: list[Record] = field(default_factory=list)

    @property
    def open(self) -> int:
        """The number of requests that have no answer yet."""
        return self.sent - len(self.records) - len(self.warm_up)

    def take(self, request: Request, reply: Reply, load: Load) -> None:
        """Take down a reply."""
        begun = reply.sent - self.started
        planned = request.at if load.concurrency is None else begun
        found = problem(reply, request.output_tokens, load.exact)
        record = Record(request.output_tokens, planned, begun, reply, found)
        (self.warm_up if request.number < load.warm_up else self.records).append(record)


async def put_load(target: Target, requests: Iterator[Request], load: Load, run: Run) -> None:
    """Send all requests and wait for their answers, which are in `run` then; a cancellation cancels them."""
    run.started = time.perf_counter()
    limited = _limited(requests, load, run)
    if load.concurrency is None:
        await _open_loop(target, limited, load, run)
        return
    clients = [asyncio.ensure_future(_client(target, limited, load, run)) for _ in range(load.concurrency)]
    try:
        await asyncio.gather(*clients)
    finally:
        await _end(clients)


def _limited(requests: Iterator[Request], load: Load, run: Run) -> Iterator[Request]:
    """Warm-up comes on top of `count`."""
    count = None if load.count is None else load.count + load.warm_up
    for request in itertools.islice(requests, count):
        now = request.at if load.concurrency is None else time.perf_counter() - run.started
        if load.seconds is not None and now >= load.seconds:
            return
        yield request


async def _client(target: Target, requests: Iterator[Request], load: Load, run: Run) -> None:
    for request in requests:
        await _one(target, request, load, run)


async def _open_loop(target: Target, requests: Iterator[Request], load: Load, run: Run) -> None:
    tasks: set[asyncio.Task[None]] = set()
    try:
        async for request in _in_time(requests, run):
            if len(tasks) >= MAX_OPEN:
                raise TrtdistError(f"{MAX_OPEN} requests are open and none is answered in time: ask for a lower rate")
            task = asyncio.ensure_future(_one(target, request, load, run))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def _in_time(requests: Iterator[Request], run: Run) -> AsyncIterator[Request]:
    for request in requests:
        pause = run.started + request.at - time.perf_counter()
        # Also when it is late already, so that the answers get their turn.
        await asyncio.sleep(max(0.0, pause))
        yield request


async def _one(target: Target, request: Request, load: Load, run: Run) -> None:
    run.sent += 1
    run.take(request, await target.ask(request), load)


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
