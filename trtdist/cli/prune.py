"""`trtdist prune`: remove the folders of runs that have ended."""

from __future__ import annotations

import os
import time

import click

from trtdist.cli.latest import remove
from trtdist.observe.runs import list_runs
from trtdist.observe.times import parse_since
from trtdist.rundir import RunDir
from trtdist.supervisor import verdict
from trtdist.supervisor.remains import recorded_remains

__all__ = ["command"]


@click.command("prune")
@click.option("--older-than", metavar="TIME", help="Only runs that ended before a time: 7d, 12h (ago) or 2026-11-24.")
@click.option("--dry-run", is_flag=True, help="Name what would be removed and remove nothing.")
def command(older_than: str | None, dry_run: bool) -> None:
    """Remove the folders, logs included, of runs that have ended and left nothing running.

    A run that is up, or whose supervisor died before it could say how it ended, stays; `trtdist down` ends it.
    """
    now = time.time()
    before = now if older_than is None else parse_since(older_than, now, "--older-than")
    for run in reversed(list_runs(os.environ)):
        if _ended_before(run, before):
            if not dry_run:
                remove(run, os.environ)
            click.echo(run.run_id)


def _ended_before(run: RunDir, moment: float) -> bool:
    found = verdict.read(run)
    if found is None or recorded_remains(run).alive():
        return False
    ended = found.get("time")
    return not isinstance(ended, (int, float)) or ended < moment
