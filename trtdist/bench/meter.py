"""The client's own use of the machine: figures of a client that could not keep up are not those of the server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from trtdist.bench.statistics import summary
from trtdist.serving.waiting import end_task

__all__ = ["ClientUse", "Meter"]

TICK_S = 0.02
FULL_CORE = 0.9
LATE_MS = 20.0


@dataclass(frozen=True)
class ClientUse:
    """What the client itself needed while it measured.

    `cpu_share` is of one core, `cpu_us_per_piece` per piece of an answer; `lag_p99_ms` is how late its event loop came
    to a timer, and so how wrong a time can be. `saturated` says in a sentence why its figures are in doubt, else "".
    """

    cpu_share: float
    cpu_us_per_piece: float
    lag_p99_ms: float
    saturated: str


class Meter:
    """Watches this process and its event loop while in `async with Meter.running()`."""

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._began = (time.process_time(), time.perf_counter())
        self._took = (0.0, 0.0)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncIterator[Meter]:
        """Measure while in `async with`."""
        meter = cls()
        ticker = asyncio.ensure_future(meter._tick())
        try:
            yield meter
        finally:
            meter._took = (time.process_time() - meter._began[0], time.perf_counter() - meter._began[1])
            await end_task(ticker)

    def use(self, pieces: int) -> ClientUse:
        """What the client used for so many pieces, after the end."""
        cpu, wall = self._took
        share = cpu / wall if wall > 0 else 0.0
        lag = 1000 * summary(self._lags).p99
        return ClientUse(share, 1e6 * cpu / pieces if pieces else 0.0, lag, _doubt(share, lag))

    async def _tick(self) -> None:
        while True:
            due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            self._lags.append(max(0.0, time.perf_counter() - due))


def _doubt(share: float, lag: float) -> str:
    if share >= FULL_CORE:
        return f"the client used {100 * share:.0f} % of its core: the server may be faster than these figures"
    if lag >= LATE_MS:
        return f"the client came {lag:.0f} ms late to its own timers: times are that much in doubt"
    return ""
