"""Runs the loads of `bench load` and `bench sweep`, shows how they go on, and delivers the result."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from trtdist import chain
from trtdist.cli.bench_options import extra_fields, slo
from trtdist.cli.client import ready
from trtdist.cli.output import write
from trtdist.cli.progress import on_terminal
from trtdist.errors import InputError
from trtdist.observe.runs import find_run
from trtdist.observe.snapshot import RunReader

if TYPE_CHECKING:
    from trtdist.bench.load import Run
    from trtdist.bench.result import Point, Result
    from trtdist.bench.session import Step
    from trtdist.bench.targets import Target

__all__ = ["deliver", "run_steps"]

_NOT_TOLD = ("as_json", "output", "html", "name", "gpus")


def run_steps(steps: Sequence[Step], given: dict[str, Any]) -> None:
    """Measure each and deliver the result; when one fails, that of those before it is delivered first."""
    asyncio.run(_run(steps, given))


def deliver(result: Result, given: dict[str, Any]) -> None:
    """Print a result, and write the files that were asked for."""
    from trtdist.bench import report
    from trtdist.bench.result import to_json
    from trtdist.rundir import write_atomic

    if given["output"] is not None:
        write_atomic(given["output"], to_json(result), 0o644)
    if given["html"] is not None:
        write_atomic(given["html"], report.html([result]), 0o644)
    write(to_json(result) if given["as_json"] else report.text(result) + "\n")


async def _run(steps: Sequence[Step], given: dict[str, Any]) -> None:
    from trtdist.bench.session import measure

    points: list[Point] = []
    async with _target(given) as (target, name, gpus):
        try:
            for step in steps:
                with _shown(f"{step.name} {step.value:g}") as watch:
                    points.append(await measure(target, step, slo(given), gpus, watch))
        finally:
            if points:
                deliver(_result(given, name, gpus, points), given)


@contextlib.asynccontextmanager
async def _target(given: dict[str, Any]) -> AsyncIterator[tuple[Target, str, int]]:
    """What load is put on, what it is called, and its GPUs."""
    from trtdist.bench.targets import Endpoint, http_target, run_target

    if (given["url"] is None) == (given["run"] is None):
        raise InputError("name what is measured with either --url or --run")
    if given["url"] is not None:
        key = os.environ.get("OPENAI_API_KEY", "")
        extra = extra_fields(given)
        endpoint = Endpoint(given["url"], given["api"], given["model"], key, extra, given["timeout"])
        async with http_target(endpoint) as target:
            yield target, given["url"], given["gpus"] or 1
        return
    from trtdist.serving.run_config import RunConfig

    snapshot = ready(RunReader(chain.newest(find_run(given["run"], os.environ))).look())
    gpus = given["gpus"] or len(snapshot.plan.gpus)
    if snapshot.plan.over_http:
        endpoint = Endpoint(f"{snapshot.endpoints.http_url}/v1", "completions", timeout=given["timeout"])
        async with http_target(endpoint) as door:
            yield door, f"{snapshot.run.run_id} over HTTP", gpus
        return
    async with run_target(RunConfig.load(snapshot.run.path), snapshot.endpoints.component, given["timeout"]) as through:
        yield through, f"{snapshot.run.run_id} through NATS", gpus


def _result(given: dict[str, Any], target: str, gpus: int, points: list[Point]) -> Result:
    from trtdist.bench.result import Result

    setup = {name: str(value) for name, value in given.items() if value is not None and name not in _NOT_TOLD}
    return Result(given["name"] or target, target, gpus, time.time(), slo(given), tuple(points), setup)


@contextlib.contextmanager
def _shown(what: str) -> Iterator[Callable[[Run], None]]:
    """Shows how a load goes on, on one line of a terminal."""
    if not on_terminal():
        yield lambda run: None
        return
    try:
        yield lambda run: _line(f"{what}: {_progress(run)}")
    finally:
        _line("")


def _line(text: str) -> None:
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


def _progress(run: Run) -> str:
    from trtdist.bench.statistics import summary

    late = run.records[-200:]
    first = summary(1000 * record.ttft for record in late)
    words = [f"{time.perf_counter() - run.started:.0f} s", f"{len(run.records)} done", f"{run.open} open"]
    words += [f"first token after {first.p50:.1f} ms"] if first.count else []
    failed = sum(bool(record.problem) for record in late)
    words += [f"{failed} of the last {len(late)} with a problem"] if failed else []
    return ", ".join(words)
