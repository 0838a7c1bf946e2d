"""`trtdist bench report`: make an HTML report of results."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("report")
@click.argument("results", nargs=-1, required=True, type=_FILE)
@click.option("--html", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to write.")
def command(results: tuple[Path, ...], html: Path) -> None:
    """Make an HTML report of results, in one file that needs nothing else."""
    from trtdist.bench import report, result
    from trtdist.rundir import write_atomic

    write_atomic(html, report.html([result.read(path) for path in results]), 0o644)
