"""`trtdist bench compare`: compare two results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from trtdist.cli.output import write

__all__ = ["command"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("compare")
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@click.option("--tolerance", default=5.0, show_default=True, type=click.FloatRange(0, 1000), help="Per cent.")
@click.option("--json", "as_json", is_flag=True, help="Print the changes as JSON.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a report of both to a file.")
def command(before: Path, after: Path, tolerance: float, as_json: bool, html: Path | None) -> None:
    """Compare two results, for each load that both have.

    A change within --tolerance per cent counts as the same.
    """
    from trtdist.bench import compare, report, result
    from trtdist.rundir import write_atomic

    first, second = result.read(before), result.read(after)
    changes = compare.compare(first, second)
    if html is not None:
        write_atomic(html, report.html([first, second]), 0o644)
    if as_json:
        rows = [
            {**dataclasses.asdict(one), "ratio": one.ratio, "verdict": one.verdict(tolerance / 100)} for one in changes
        ]
        write(json.dumps({"version": 1, "changes": rows}, indent=1) + "\n")
        return
    write(compare.text(changes, tolerance / 100) + "\n")
