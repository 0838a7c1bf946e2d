"""`trtdist bench`: measure a deployment, or any OpenAI-compatible endpoint, under load."""

from __future__ import annotations

import click

from trtdist.cli.lazy import LazyGroup

__all__ = ["OFFERED", "command"]

OFFERED = {
    "load": "Put one load on a deployment or endpoint and report.",
    "sweep": "Measure under several loads, one after the other.",
    "compare": "Compare two results.",
    "report": "Make an HTML report of results.",
    "route": "Simulate routing policies on a trace.",
}


@click.command("bench", cls=LazyGroup, offered=OFFERED, modules="trtdist.cli.bench_")
def command() -> None:
    """Measure a deployment, or any OpenAI-compatible endpoint, under load.

    Nothing is reported unless every answer was complete: the exit code is 1 then.
    """
