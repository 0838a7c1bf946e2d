"""`trtdist validate`: check a topology and report every problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtdist.errors import InputError

if TYPE_CHECKING:
    from trtdist.topology import Checked, Topology

__all__ = ["command"]


@click.command("validate")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Override a value; may be repeated.")
@click.option("--resolved", is_flag=True, help="Print the topology with defaults, site profile and overrides in it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(file: Path, overrides: tuple[str, ...], resolved: bool, as_json: bool) -> None:
    """Check the topology in FILE and report every problem in it.

    Nothing is started. The exit code is 0 when the topology can be used, 2 when it cannot; `trtdist explain CODE`
    tells more about a problem.
    """
    from trtdist.cli.checking import checked_with_room
    from trtdist.topology import dump

    checked = checked_with_room(file, overrides)
    if as_json:
        click.echo(_as_json(file, checked))
    else:
        _tell(checked)
        if checked.topology is not None:
            click.echo(dump(checked.topology) if resolved else _summary(file, checked.topology), nl=not resolved)
            if not resolved and checked.topology.engine == "tensorrt_llm":
                _tell_memory(checked.topology)
    if checked.topology is None:
        raise click.exceptions.Exit(InputError.exit_code)


def _tell(checked: Checked) -> None:
    from trtdist.topology.diagnostics import report

    if checked.diagnostics:
        click.echo(report(checked.diagnostics, excerpts=True), err=True)


def _tell_memory(topology: Topology) -> None:
    """What the KV cache of each server can hold, where it can be estimated."""
    from trtdist.cli.model_paths import model_facts
    from trtdist.topology.lint.memory import estimates

    for estimate in estimates(topology, model_facts(topology)):
        if estimate.tokens is not None:
            click.echo(f"{estimate.key}: about {estimate.tokens:,} tokens of KV cache on each rank ({estimate})")


def _summary(file: Path, topology: Topology) -> str:
    """One line: `cluster.yaml is valid: tinyllama, 2 context servers (TP2), 2 generation servers (TP2), 8 ranks`."""
    parts = [topology.name]
    for role, section in topology.sections:
        sizes = {
            "TP": section.tensor_parallel_size,
            "PP": section.pipeline_parallel_size,
            "CP": section.context_parallel_size,
        }
        shape = " ".join(f"{name}{size}" for name, size in sizes.items() if size > 1) or "TP1"
        servers = "server" if section.num_instances == 1 else "servers"
        parts.append(f"{section.num_instances} {role} {servers} ({shape})")
    ranks = "rank" if topology.world_size == 1 else "ranks"
    return f"{file} is valid: {', '.join(parts)}, {topology.world_size} {ranks}"


def _as_json(file: Path, checked: Checked) -> str:
    diagnostics = [
        {
            "code": diagnostic.code,
            "severity": diagnostic.severity,
            "message": diagnostic.message,
            "source": diagnostic.origin.source.name,
            "line": diagnostic.origin.line or None,
            "column": diagnostic.origin.column or None,
        }
        for diagnostic in checked.diagnostics
    ]
    topology = None if checked.topology is None else checked.topology.model_dump(mode="json")
    result = {"file": str(file), "valid": topology is not None, "diagnostics": diagnostics, "topology": topology}
    return json.dumps(result, indent=2)
