"""The topology that a command was given, checked with all that can be seen from here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from trtdist.cli.model_paths import model_facts, model_problem
from trtdist.topology import Checked, InvalidTopologyError, Topology, check
from trtdist.topology.diagnostics import report

__all__ = ["checked_with_room", "room_problem", "usable"]


def checked_with_room(file: Path, overrides: Sequence[str]) -> Checked:
    """The topology of a file with all its problems, whether its nodes can hold it included."""
    return check(
        file,
        overrides=overrides,
        environ=os.environ,
        model_check=model_problem,
        model_facts=model_facts,
        room_check=room_problem,
    )


def room_problem(topology: Topology) -> str:
    """Why the nodes of a topology cannot hold it, with the smallest changes that help; "" when they can."""
    from trtdist.planning import PlanError, Target, plan

    try:
        plan(topology, Target.SLURM)
    except PlanError as error:
        return str(error)
    return ""


def usable(file: Path, overrides: Sequence[str]) -> Topology:
    """The topology of a file; InvalidTopologyError has its problems, and mere warnings are told at once."""
    found = check(file, overrides=overrides, environ=os.environ, model_check=model_problem, model_facts=model_facts)
    if found.topology is None:
        raise InvalidTopologyError(found.diagnostics)
    if found.diagnostics:
        click.echo(report(found.diagnostics), err=True)
    return found.topology
