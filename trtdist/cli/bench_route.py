"""`trtdist bench route`: simulate routing policies on a trace."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdist.cli.output import write
from trtdist.errors import InputError

if TYPE_CHECKING:
    from trtdist.bench.routing import Outcome
    from trtdist.bench.trace import TraceLine

__all__ = ["command"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_MANY = click.IntRange(1, 1_000_000)


@click.command("route")
@click.option("--trace", type=_FILE, help="A trace in Mooncake's format.  [default: conversations that are made up]")
@click.option("--policy", "names", multiple=True, help="One of them; may be given several times.  [default: all]")
@click.option("--servers", default=4, show_default=True, type=click.IntRange(1, 1000), help="Context servers.")
@click.option(
    "--prefill-rate", default=20000.0, show_default=True, type=click.FloatRange(1, 1e9), help="Tokens/s each."
)
@click.option("--cache-blocks", default=1000, show_default=True, type=_MANY, help="Blocks of 512 tokens each can hold.")
@click.option("--requests", default=2000, show_default=True, type=_MANY, help="Of the conversations:")
@click.option("--prefixes", default=8, show_default=True, type=_MANY, help="different beginnings that they share,")
@click.option("--turns", default=8, show_default=True, type=_MANY, help="requests of each,")
@click.option(
    "--rate", default=8.0, show_default=True, type=click.FloatRange(0, 1e6, min_open=True), help="per second."
)
@click.option("--seed", default=0, show_default=True, type=int, help="The same seed gives the same conversations.")
@click.option("--write-trace", type=click.Path(dir_okay=False, path_type=Path), help="Write the trace to a file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**given: Any) -> None:
    """Simulate routing policies on a trace: what servers would compute again, and how evenly.

    The policies are the router's own functions; the servers are simulated (docs/bench.md says how).
    """
    from trtdist.bench.routing import Cluster, simulate
    from trtdist.bench.trace import format_trace
    from trtdist.rundir import write_atomic
    from trtdist.serving.policies import POLICIES

    names = given["names"] or tuple(POLICIES)
    unknown = [name for name in names if name not in POLICIES]
    if unknown:
        raise InputError(f"there is no policy {unknown[0]!r}: use {', '.join(POLICIES)}")
    trace = _trace(given)
    if given["write_trace"] is not None:
        write_atomic(given["write_trace"], format_trace(trace), 0o644)
    cluster = Cluster(given["servers"], given["prefill_rate"], given["cache_blocks"])
    found = {name: simulate(trace, POLICIES[name], cluster) for name in names}
    if given["as_json"]:
        body = {name: dataclasses.asdict(outcome) for name, outcome in found.items()}
        write(json.dumps({"version": 1, "policies": body}, indent=1) + "\n")
        return
    write(_text(found))


def _trace(given: dict[str, Any]) -> list[TraceLine]:
    from trtdist.bench.synthetic import Conversations
    from trtdist.bench.trace import read_trace

    if given["trace"] is not None:
        return read_trace(given["trace"])
    made = Conversations(given["requests"], given["prefixes"], turns=given["turns"], rate=given["rate"])
    return made.trace(given["seed"])


def _text(found: dict[str, Outcome]) -> str:
    columns = ("hit rate", "computed", "imbalance", "wait p50 ms", "wait p99 ms")
    lines = [f"{'policy':<16}" + "".join(f"{name:>14}" for name in columns)]
    for name, one in found.items():
        cells = [f"{100 * one.hit_rate:.1f} %", str(one.computed), f"{100 * one.imbalance:.1f} %"]
        cells += [f"{one.wait.p50:.1f}", f"{one.wait.p99:.1f}"]
        lines.append(f"{name:<16}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines) + "\n"
