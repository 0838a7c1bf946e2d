"""`trtdist doctor`: say what would keep a deployment from running, before anything is started."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtdist.cli.doctor_here import here_facts, with_architecture
from trtdist.cli.progress import say
from trtdist.errors import InputError, InterruptedRunError, TrtdistError
from trtdist.observe.check_here import HereFacts, check_here, check_mpi_types
from trtdist.observe.check_services import check_services, lossy_etcd
from trtdist.observe.findings import Finding, exit_code, split, table, to_json
from trtdist.slurm import argv, parse, runner
from trtdist.supervisor.examine import leaking, service

if TYPE_CHECKING:
    from trtdist.topology import Topology

__all__ = ["command"]

_PATIENCE_S = 10.0


@click.command("doctor")
@click.argument("file", required=False, type=click.Path(path_type=Path, readable=False))
@click.option("--nodes", is_flag=True, help="Also look at every node, in this allocation or one for some minutes.")
@click.option("--local", is_flag=True, help="The deployment is to run on this machine alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, as docs/doctor.md describes it.")
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Override a value; may be repeated.")
def command(file: Path | None, nodes: bool, local: bool, as_json: bool, overrides: tuple[str, ...]) -> None:
    """Look for what would keep the topology in FILE from running, and print it with remedies, the worst first.

    Without --nodes it looks at this machine and asks Slurm what it offers; with --nodes also at every node that the
    topology asks for, all at once: images, mounts, folders, network, clocks, GPUs, and whether MPI ranks on two nodes
    find each other, in the image if there is one. Nothing is left behind.

    The exit code is 0 when nothing is worse than a warning.
    """
    if nodes and (file is None or local):
        raise InputError("--nodes looks at the nodes of a topology: give FILE with it, and not --local")
    topology = _topology(file, overrides)
    here = replace(here_facts(topology), leaking=tuple(leaking(os.environ)))
    if here.image is not None:
        here = replace(here, image=with_architecture(here.image))
    findings = list(check_here(here, local))
    names: tuple[str, ...] = ()
    if local:
        findings += _alone(topology)
    else:
        mpi_types, asked = _slurm(topology)
        findings += asked
        if nodes and topology is not None and not any(each.code == "slurm" for each in asked):
            names, looked = _nodes(topology, here, mpi_types)
            # A node says better what is wrong with an image or a folder than the machine that may not see it.
            better = ("mount", "image") if here.image is not None else ("mount",)
            findings = [found for found in findings if not names or found.code not in better] + looked
        if not names:
            findings += lossy_etcd(_found_services(topology))
    click.echo(json.dumps(to_json(findings, names), indent=2) if as_json else table(findings))
    code = exit_code(findings)
    if code:
        raise click.exceptions.Exit(code)


def _topology(file: Path | None, overrides: tuple[str, ...]) -> Topology | None:
    if file is None:
        return None
    from trtdist.cli.checking import usable

    return usable(file, overrides)


def _alone(topology: Topology | None) -> Iterator[Finding]:
    """The programs and packages of a run on this machine."""
    yield from check_services("", _found_services(topology))
    if topology is None:
        return
    from trtdist.cli.prepare import require_programs
    from trtdist.planning import Target, plan

    try:
        plan(topology, Target.LOCAL)
        require_programs(topology, os.environ)
    except TrtdistError as error:
        what, remedy = split(str(error))
        yield Finding("error", "services", "", what, remedy)


def _found_services(topology: Topology | None) -> dict[str, dict[str, str]]:
    """Which programs this machine would run for them."""
    return {name: service(name, binary) for name, binary in _services(topology).items()}


def _services(topology: Topology | None) -> dict[str, str]:
    """The head services that a run starts, with the program that the topology names for each, or ""."""
    if topology is None:
        return {"nats": "", "etcd": ""}
    from trtdist.cli.given import own_services

    return own_services(topology)


def _slurm(topology: Topology | None) -> tuple[list[str], list[Finding]]:
    """The MPI types that Slurm has, and what is to say about what it offers."""
    try:
        types = parse.mpi_types(runner.run(argv.srun_mpi_list(), _PATIENCE_S))
        pyxis = "--container-image" in runner.run(argv.srun_help(), _PATIENCE_S)
    except TrtdistError as error:
        what, remedy = split(str(error))
        return [], [Finding("error", "slurm", "", what, remedy or "see that Slurm's controller is up (scontrol ping)")]
    runtime = topology.container.runtime if topology is not None else "none"
    return types, list(check_mpi_types(types, pyxis, runtime))


def _nodes(topology: Topology, here: HereFacts, mpi_types: list[str]) -> tuple[tuple[str, ...], list[Finding]]:
    """The names of the nodes that were looked at, none when they could not be had, and what was found."""
    from trtdist.cli.doctor_job import allocated
    from trtdist.cli.doctor_look import Look
    from trtdist.planning import Target, plan
    from trtdist.rendering import job_options

    try:
        planned = plan(topology, Target.SLURM)
        look = Look(topology, planned, here, tuple(mpi_types), _services(topology))
        with allocated(job_options(planned, topology)) as job:
            say(f"looking at {', '.join(job.nodes)} in job {job.id}")
            sys.stderr.flush()
            return job.nodes, look.at(job)
    except InterruptedRunError:
        raise
    except TrtdistError as error:
        what, remedy = split(str(error))
        code = "nodes" if isinstance(error, InputError) else "slurm"
        return (), [Finding("error", code, "", what, remedy)]
