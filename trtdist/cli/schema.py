"""`trtdist schema`: the JSON Schema of the topology file."""

from __future__ import annotations

import json

import click

__all__ = ["command"]


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of the topology file, for editors and other tools.

    With the schema in a file, a first line `# yaml-language-server: $schema=trtdist.schema.json` in a topology gives
    completion and checks in editors that know it.
    """
    from trtdist.topology.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
