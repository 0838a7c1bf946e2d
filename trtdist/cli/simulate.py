"""`trtdist simulate`: try the supervisor's decisions on simulated lives of a deployment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtdist.cli.output import write
from trtdist.errors import TrtdistError

if TYPE_CHECKING:
    from trtdist.plan import Plan
    from trtdist.simulation.facts import Scene
    from trtdist.simulation.summary import Summary

__all__ = ["command"]

_SEEDS = 1000
_SHOWN = 5


@click.command("simulate")
@click.argument("file", required=False, type=click.Path(path_type=Path, readable=False))
@click.option("--seeds", type=click.IntRange(1), help="How many lives.  [default: 1000; 1 with --nodes]")
@click.option("--seed", type=click.IntRange(0), help="The first of the seeds; alone, that life with all its events.")
@click.option("--nodes", type=click.IntRange(1), help="Nodes; without FILE, of four servers each.")
@click.option("--quiet", is_flag=True, help="Lives in which nothing goes wrong.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as docs/simulation.md describes it.")
def command(
    file: Path | None, seeds: int | None, seed: int | None, nodes: int | None, quiet: bool, as_json: bool
) -> None:
    """Run the supervisor's state machine in virtual time against a simulated cluster, and check its invariants.

    What happens is drawn from a seed: start-up times, deaths, network cuts, signals of Slurm's, nodes that die. The
    deployment is that of the topology in FILE, or a random one. The exit code is 1 when an invariant does not hold.
    """
    from trtdist.simulation.summary import trace

    plan = _plan(file, nodes)
    if seed is not None and seeds is None:
        life, lines = trace(next(_scenes(plan, seed, 1, quiet)))
        write("".join(f"{line}\n" for line in lines))
        if life.broken:
            raise TrtdistError(f"seed {seed}: {life.broken}")
        return
    many = seeds or (_SEEDS if nodes is None else 1)
    _sum_up(plan, seed or 0, many, quiet, as_json)


def _sum_up(plan: Plan | None, first: int, many: int, quiet: bool, as_json: bool) -> None:
    import time

    from trtdist.simulation.summary import live_all

    begun = time.perf_counter()
    summary = live_all(_scenes(plan, first, many, quiet), time.perf_counter)
    took = time.perf_counter() - begun
    if as_json:
        write(json.dumps({"version": 1, "first_seed": first, **asdict(summary), "seconds": took}, indent=1) + "\n")
    else:
        write(_text(summary, first, took))
    if summary.broken:
        again = f"add `--seed {summary.broken[0].seed}` in place of --seeds to see all events of the first"
        raise TrtdistError(f"an invariant does not hold in {len(summary.broken)} of {summary.lives} lives; {again}")


def _plan(file: Path | None, nodes: int | None) -> Plan | None:
    """The plan of all lives; None for one of its own for each."""
    if file is None:
        from trtdist.simulation.plans import large

        return None if nodes is None else large(nodes)
    from trtdist.planning import Target, plan
    from trtdist.topology import load

    overrides = () if nodes is None else (f"slurm.nodes={nodes}",)
    return plan(load(file, overrides=overrides, environ=os.environ), Target.SLURM)


def _scenes(plan: Plan | None, first: int, many: int, quiet: bool) -> Iterator[Scene]:
    from trtdist.simulation import scenes

    draw = scenes.quiet if quiet else scenes.scene
    return (draw(seed, plan) for seed in range(first, first + many))


def _text(summary: Summary, first: int, took: float) -> str:
    ended = ", ".join(f"{state} {count}" for state, count in summary.ended.items())
    seeds = f"seeds {first} to {first + summary.lives - 1}"
    lines = [
        f"{summary.lives} lives ({seeds}) in {took:.1f} s: {summary.events} events, {summary.hours:.1f} virtual hours",
        f"{summary.ready} became READY; they ended {ended}",
        f"a decision of the supervisor takes {1e6 * summary.event_cost:.0f} us",
    ]
    lines += [f"seed {life.seed}: {life.broken}" for life in summary.broken[:_SHOWN]]
    if len(summary.broken) > _SHOWN:
        lines.append(f"and {len(summary.broken) - _SHOWN} more")
    if not summary.broken:
        lines.append("every invariant holds")
    return "\n".join(lines) + "\n"
