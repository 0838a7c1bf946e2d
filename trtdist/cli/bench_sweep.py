"""`trtdist bench sweep`: measure under several loads, one after the other."""

from __future__ import annotations

from typing import Any

import click

from trtdist.cli import bench_options
from trtdist.cli.benching import run_steps
from trtdist.errors import InputError

__all__ = ["command"]

_MOST = 10000


@click.command("sweep")
@bench_options.target_options
@click.option("--concurrency", metavar="N,N,...", help="Closed loops with so many open requests, such as 1,4,16,64.")
@click.option("--rate", metavar="R,R,...", help="Open loops with so many requests per second, such as 1,2.5,4.")
@bench_options.workload_options
@bench_options.output_options
def command(**given: Any) -> None:
    """Measure under several loads, one after the other.

    When a load has no valid result the sweep ends there with exit code 1, and the result has the loads before it.
    """
    if (given["concurrency"] is None) == (given["rate"] is None):
        raise InputError("say which loads with either --concurrency or --rate, such as --concurrency 1,4,16")
    if given["rate"] is not None:
        steps = [bench_options.open_step(given, rate) for rate in _numbers("--rate", given["rate"])]
    else:
        counts = _numbers("--concurrency", given["concurrency"])
        if any(count % 1 for count in counts):
            raise InputError(f"--concurrency {given['concurrency']} must have whole numbers")
        steps = [bench_options.closed_step(given, int(count)) for count in counts]
    run_steps(steps, given)


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < number <= _MOST for number in found):
        raise InputError(f"{option} {text!r} must be numbers up to {_MOST} with commas between them, such as 1,4,16")
    return found
