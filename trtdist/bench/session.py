"""One load from begin to end: put on, watched, checked, and turned into a point of a result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trtdist.bench.figures import figures, problems
from trtdist.bench.load import Load, Run, put_load
from trtdist.bench.meter import Meter
from trtdist.bench.record import Slo
from trtdist.bench.result import Point
from trtdist.bench.targets import Target
from trtdist.bench.workload import Request
from trtdist.errors import RunFailedError
from trtdist.serving.waiting import end_task

__all__ = ["Step", "measure"]

LOOK_S = 0.5
SHOWN = 5

# Told now and then how a load goes on.
Watch = Callable[[Run], None]


@dataclass(frozen=True)
class Step:
    """One load of a session: what it is called in a result, how much of it, and how it is sent."""

    name: str
    value: float
    load: Load
    requests: Iterator[Request]


async def measure(target: Target, step: Step, slo: Slo, gpus: int, watch: Watch) -> Point:
    """Put a load on a target; RunFailedError, without figures, when any answer is not complete."""
    run = Run()
    watcher = asyncio.ensure_future(_look(run, watch))
    try:
        async with Meter.running() as meter:
            await put_load(target, step.requests, step.load, run)
    finally:
        await end_task(watcher)
    _check(run, step)
    found = figures(run.records, slo, gpus)
    warm_up = sum(len(record.reply.pieces) for record in run.warm_up)
    return Point(step.name, step.value, found, meter.use(found.pieces + warm_up))


async def _look(run: Run, watch: Watch) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        watch(run)


def _check(run: Run, step: Step) -> None:
    records = [*run.warm_up, *run.records]
    found = problems(records)
    if found:
        shown = [f"{count} times: {sentence}" for sentence, count in found.most_common(SHOWN)]
        more = [f"and {len(found) - SHOWN} other problems"] if len(found) > SHOWN else []
        raise RunFailedError(
            f"there is no result for {step.name} {step.value:g}: {found.total()} of {len(records)} answers cannot be "
            f"trusted; {'; '.join([*shown, *more])}"
        )
    if not run.records:
        seconds = time.perf_counter() - run.started
        raise RunFailedError(f"no request was measured in {seconds:.1f} s: ask for more than the warm-up")
