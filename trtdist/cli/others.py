"""A word on the runs that nobody asked about and that are still up."""

from __future__ import annotations

import os

import click

from trtdist.observe.living import live_runs
from trtdist.observe.runs import list_runs
from trtdist.rundir import RunDir

__all__ = ["tell_of_others"]

_SHOWN = 4


def tell_of_others(run: RunDir) -> None:
    """Name, on standard error, the runs other than this one that have not ended."""
    others = [other.run_id for other in live_runs(list_runs(os.environ)) if other.path != run.path]
    if not others:
        return
    what = "another run is" if len(others) == 1 else f"{len(others)} other runs are"
    more = ", ..." if len(others) > _SHOWN else ""
    click.echo(f"{what} still up: {', '.join(others[:_SHOWN])}{more}", err=True)
