"""`trtdist bench load`: put one load on a deployment or endpoint and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdist.cli import bench_options
from trtdist.cli.benching import run_steps
from trtdist.errors import InputError

if TYPE_CHECKING:
    from trtdist.bench.session import Step

__all__ = ["command"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("load")
@bench_options.target_options
@click.option("--concurrency", type=click.IntRange(1, 10000), help="So many requests are open at any time.")
@click.option("--rate", type=click.FloatRange(0, 1e6, min_open=True), help="So many requests per second arrive,")
@click.option("--evenly", is_flag=True, help="in equal distances instead of as a Poisson process.")
@click.option("--trace", type=_FILE, help="A trace in Mooncake's format is replayed,")
@click.option("--speed", default=1.0, type=click.FloatRange(0, 1e6, min_open=True), help="so many times as fast.")
@bench_options.workload_options
@bench_options.output_options
def command(**given: Any) -> None:
    """Put one load on a deployment or endpoint and report.

    A closed loop (--concurrency), an open loop (--rate), or a recorded one (--trace). The exit code is 1, and nothing
    is reported, when an answer failed or lacks tokens.
    """
    ways = [name for name in ("concurrency", "rate", "trace") if given[name] is not None]
    if len(ways) != 1:
        raise InputError("say how requests are sent with one of --concurrency, --rate and --trace")
    if given["trace"] is not None:
        step = _trace_step(given)
    elif given["rate"] is not None:
        step = bench_options.open_step(given, given["rate"], given["evenly"])
    else:
        step = bench_options.closed_step(given, given["concurrency"])
    run_steps([step], given)


def _trace_step(given: dict[str, Any]) -> Step:
    from trtdist.bench import workload
    from trtdist.bench.load import Load
    from trtdist.bench.session import Step
    from trtdist.bench.trace import read_trace

    lines, speed = read_trace(given["trace"]), given["speed"]
    load = Load(None, given["requests"], given["seconds"], given["warm_up"] or 0, given["ignore_eos"])
    return Step("trace", speed, load, workload.replay(lines, speed))
