"""`trtdist plan`: show where every server and rank goes."""

from __future__ import annotations

import os
from pathlib import Path

import click

__all__ = ["command"]


@click.command("plan")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Override a value; may be repeated.")
@click.option("--local", is_flag=True, help="Plan for this machine alone, as `up --local` does.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, as docs/planning.md describes it.")
def command(file: Path, overrides: tuple[str, ...], local: bool, as_json: bool) -> None:
    """Show where every server and rank of the topology in FILE goes, and what is asked of the scheduler.

    Nothing is started. When the deployment is impossible, the exit code is 2 and the message names the smallest
    change that helps.
    """
    from trtdist.plan import to_json
    from trtdist.planning import Target, picture, plan
    from trtdist.topology import load

    topology = load(file, overrides=overrides, environ=os.environ)
    planned = plan(topology, Target.LOCAL if local else Target.SLURM)
    click.echo(to_json(planned) if as_json else picture(planned), nl=not as_json)
