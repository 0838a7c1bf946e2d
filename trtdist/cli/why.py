"""`trtdist why`: why a run ended as it did, with the first cause named and the evidence beside it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from trtdist.observe.why import Evidence, Report
    from trtdist.rundir import RunDir

__all__ = ["command", "in_short"]

_SHOWN = 20
_WIDTH = 110
_STACK_LINES = 12


@click.command("why")
@click.argument("selector", metavar="[RUN]", required=False)
@click.option("--all", "everything", is_flag=True, help="All of the evidence, and whole stacks.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def command(selector: str | None, everything: bool, as_json: bool) -> None:
    """Say why a run failed: its first cause, then the evidence with file and line.

    RUN is a run id, the start of one, a topology's name or the id of a job; without it the newest run is meant.
    """
    from trtdist.observe.runs import find_run
    from trtdist.observe.why import explain, to_json

    report = explain(find_run(selector, os.environ))
    if as_json:
        click.echo(json.dumps(to_json(report), indent=1))
    else:
        click.echo("\n".join(_told(report, None if everything else _SHOWN)))


def in_short(run: RunDir) -> str:
    """What is to say of a run that has just failed, in a few lines; "" when the logs tell no more than the verdict."""
    from trtdist.errors import InputError
    from trtdist.observe.why import explain

    try:
        report = explain(run)
    except InputError:
        return ""
    lines = list(_cause(report)) if report.cause.signature else []
    return "\n".join([*lines, f"`trtdist why {run.run_id}` shows the evidence"])


def _told(report: Report, most: int | None) -> Iterator[str]:
    look = report.look
    yield f"{look.run.run_id} is {look.status.state}; files are in {look.run.path}"
    yield ""
    yield from _cause(report)
    if report.evidence:
        yield "\nwhat happened:"
        yield from _table(report.evidence, most)
    if report.suspects:
        yield "\nmay have to do with it:"
        yield from _table(report.suspects, most)
    yield from _stacks(report, most)


def _cause(report: Report) -> Iterator[str]:
    cause, signature = report.cause, report.cause.signature
    yield f"first cause: {cause.sentence}" if cause.name or cause.certain else cause.sentence
    if signature is not None:
        known = f" [{signature.code}]" if cause.certain else ""
        if cause.hit is not None:
            yield f"     it says: {cause.hit.text[:_WIDTH]}"
            yield f"       there: logs/{cause.hit.log}.log:{cause.hit.line}{known}"
        yield f"      remedy: {signature.remedy}"


def _table(evidence: Sequence[Evidence], most: int | None) -> Iterator[str]:
    shown = evidence if most is None else evidence[:most]
    name_width = max(len(each.name) for each in shown)
    for each in shown:
        place = f"{each.file}:{each.line}" if each.file else "Slurm"
        times = f" (and {each.count - 1} more such lines)" if each.count > 1 else ""
        yield f"  {_clock(each.at)}  {each.name:<{name_width}}  {each.text[:_WIDTH]}{times}"
        yield f"  {'':12}  {'':<{name_width}}  {place}{f' [{each.code}]' if each.code else ''}"
    if len(evidence) > len(shown):
        yield f"  and {len(evidence) - len(shown)} more; --all shows them"


def _clock(at: float | None) -> str:
    if at is None:
        return " " * 12
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at * 1000) % 1000:03d}"


def _stacks(report: Report, most: int | None) -> Iterator[str]:
    """What programs were seen to do: unless all is wanted, those with which it began."""
    cause = report.cause.name
    shown = [each for each in report.stacks if most is None or f"{Path(each).stem}.".startswith(f"{cause}.")]
    for stack in shown:
        yield f"\n{stack}:"
        yield from _stack(report, stack, None if most is None else _STACK_LINES)
    if len(shown) < len(report.stacks):
        yield f"\nstacks of {len(report.stacks) - len(shown)} {'other ' if shown else ''}programs; --all shows them"


def _stack(report: Report, stack: str, most: int | None) -> Iterator[str]:
    with open(report.look.run.path / stack, encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip() for line in file]
    yield from (f"  {line}" for line in lines[:most])
    if most is not None and len(lines) > most:
        yield f"  and {len(lines) - most} more lines"
