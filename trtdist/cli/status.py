"""`trtdist status`: show each server and rank of a run."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict

import click

from trtdist import chain
from trtdist.cli.others import tell_of_others
from trtdist.errors import InputError
from trtdist.observe.living import briefs
from trtdist.observe.runs import find_run, list_runs
from trtdist.observe.snapshot import JSON_VERSION, RunReader, Snapshot, to_json
from trtdist.observe.state import Failure
from trtdist.observe.times import clock, span

__all__ = ["STATE_COLOURS", "command", "describe", "describe_failure", "next_due"]

_WATCH_SECONDS = 1.0
_CLEAR = "\x1b[H\x1b[2J"
STATE_COLOURS = {"READY": "green", "DONE": "green", "FAILED": "red", "LOST": "red", "LEFT": "red", "TIMEOUT": "red"}
_GONE = ("FAILED", "LOST", "STOPPED")
_SUCCESSION = {"asked": "which is to take over", "ready": "which has taken over", "lost": "which will not take over"}
_ENGINES = {"reference": "reference (a tiny numpy transformer, not TensorRT-LLM)", "tensorrt_llm": "TensorRT-LLM"}


@click.command("status")
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, as docs/commands.md describes it.")
@click.option("--watch", is_flag=True, help="Show it again whenever it changes, until the run ends.")
@click.option("--gpus", is_flag=True, help="Also ask each node how much memory of its GPUs is used.")
@click.option("--all", "everything", is_flag=True, help="List all runs, the newest first, with the state of each.")
def command(run: str | None, as_json: bool, watch: bool, gpus: bool, everything: bool) -> None:
    """Show the state of a run, of each server and rank, and where it is reached.

    RUN is a run id, the start of one, or a topology's name; without it the newest run is meant. The exit code is 0
    whatever the state is: a script reads the state from --json.
    """
    if everything:
        if run is not None or watch:
            raise InputError("--all lists all runs: give neither a RUN nor --watch with it")
        _list(as_json)
        return
    reader = RunReader(find_run(run, os.environ))
    redraw = watch and not as_json and sys.stdout.isatty()
    before = ""
    for snapshot in _looks(reader, watch):
        text = _text(snapshot, as_json, gpus)
        if text != before:
            click.echo(f"{_CLEAR}{text}" if redraw else text)
        before = text
    tell_of_others(reader.run)


def _list(as_json: bool) -> None:
    """All runs, the newest first."""
    runs = briefs(list_runs(os.environ))
    if as_json:
        click.echo(json.dumps({"version": JSON_VERSION, "runs": [asdict(run) for run in runs]}, ensure_ascii=False))
        return
    width = max([len(run.run_id) for run in runs], default=0)
    states = max([len(run.state) for run in runs], default=0)
    for run in runs:
        click.echo(f"{run.run_id:<{width}}  {_state(f'{run.state:<{states}}')}  {run.detail}".rstrip())


def _text(snapshot: Snapshot, as_json: bool, gpus: bool) -> str:
    looked = None
    if gpus:
        from trtdist.cli.gpus import look

        looked = look(snapshot)
    if as_json:
        found = {**to_json(snapshot), **(looked.as_json() if looked is not None else {})}
        return json.dumps(found, ensure_ascii=False)
    return "\n\n".join([describe(snapshot), *([looked.described()] if looked is not None else [])])


def describe(snapshot: Snapshot) -> str:
    """A snapshot as text for a person."""
    # What has ended cannot be reached any more.
    parts = [_head(snapshot), *([] if snapshot.final else [_where(snapshot)]), _table(snapshot)]
    if snapshot.status.failure is not None:
        parts.append(describe_failure(snapshot.status.failure))
    return "\n\n".join(parts)


def _looks(reader: RunReader, watch: bool) -> Iterator[Snapshot]:
    snapshot = reader.look()
    yield snapshot
    while watch and not (snapshot.final and snapshot.status.supervisor_alive is not True):
        time.sleep(_WATCH_SECONDS)
        snapshot = reader.look()
        yield snapshot


def _head(snapshot: Snapshot) -> str:
    status, plan = snapshot.status, snapshot.plan
    lines = [f"{snapshot.run.run_id}  {_state(status.state)}{_since(snapshot)}"]
    if status.detail and status.failure is None:
        lines.append(status.detail)
    supervisor = "not started" if status.supervisor_pid is None else f"pid {status.supervisor_pid}"
    if status.supervisor_alive is False:
        supervisor += ", ended"
    if status.job is not None:
        expected = f", expected to start at {clock(status.job.starts)}" if status.job.starts else ""
        lines.append(f"  job         {status.job.detail}{expected}")
    lines += _chain(snapshot)
    lines += [
        f"  engine      {_engine(snapshot)}",
        f"  model       {plan.model}",
        f"  launch      {plan.launch}, {_ranks(snapshot)}, runtime {plan.runtime}",
        f"  supervisor  {supervisor}",
        f"  run         {snapshot.run.path}",
        "  logs        logs/NAME.log in it, or `trtdist logs NAME`",
    ]
    return "\n".join(lines)


def _ranks(snapshot: Snapshot) -> str:
    """How many ranks were planned, and how many of them a run that goes on has lost or let go."""
    gone = [rank for rank in snapshot.status.ranks if rank.state in _GONE]
    lost = f" of which {len(gone)} {'is' if len(gone) == 1 else 'are'} gone" if gone and not snapshot.final else ""
    return f"{snapshot.plan.world_size} ranks{lost}"


def _chain(snapshot: Snapshot) -> list[str]:
    """The runs before and after this one."""
    lines = []
    if snapshot.before is not None:
        waits = chain.in_waiting(snapshot.run)
        lines.append(f"  before it   {snapshot.before}, from which it {'is to take' if waits else 'has taken'} over")
    after = snapshot.successor
    if after is not None:
        who = f"{after.run} (job {after.job}), " if after.run else ""
        lines.append(f"  after it    {who}{_SUCCESSION[after.state]}{f': {after.reason}' if after.reason else ''}")
    elif snapshot.next_due is not None and not snapshot.final:
        lines.append(f"  after it    {next_due(snapshot.next_due, time.time())}")
    return lines


def next_due(at: float, now: float) -> str:
    """When the job of the run that is to take over is submitted, as a sentence without its end; times are epoch."""
    if at <= now:
        return "the next job is submitted once this run is READY"
    return f"the next job is submitted at {clock(at)}, in {span(at - now)}"


def _engine(snapshot: Snapshot) -> str:
    """Which engine, and the versions that its servers told of, of which there should be one."""
    name = _ENGINES.get(snapshot.plan.engine, snapshot.plan.engine)
    return " ".join([name, *sorted({server.version for server in snapshot.status.servers} - {""})])


def _since(snapshot: Snapshot) -> str:
    status = snapshot.status
    if status.begun is None:
        return ""
    if status.ended is not None:
        return f", after {span(status.ended - status.begun)}"
    if status.ready is not None and status.state == "READY":
        return f", came up in {span(status.ready - status.begun)}"
    return ""


def _where(snapshot: Snapshot) -> str:
    ends = snapshot.endpoints
    nats = ends.nats_url or "not known yet"
    if ends.nats_user_file and ends.nats_password_file:
        nats += "  (secrets/nats.user, secrets/nats.password)"
    if snapshot.plan.over_http:
        return "\n".join(_http(snapshot) or ["  HTTP        not known yet"])
    return "\n".join(
        [
            *_http(snapshot),
            f"  front door  component {ends.component}, endpoint {ends.endpoint}, namespace {ends.namespace}",
            f"  NATS        {nats}",
            f"  etcd        {ends.etcd_url or 'not known yet'}",
        ]
    )


def _http(snapshot: Snapshot) -> list[str]:
    """Where the HTTP front end is, and how it is reached from here; nothing without one."""
    ends = snapshot.endpoints
    if not ends.http_url:
        return []
    node = f" on {ends.http_node}" if ends.http_elsewhere else ""
    keys = "  (API keys in secrets/http.keys)" if ends.http_keys_file else ""
    way = f"trtdist forward {snapshot.run.run_id} --to http"
    reached = [f"{'':14}from here by `{way}`"] if ends.http_elsewhere else []
    return [f"  HTTP        {ends.http_url}/v1{node}{keys}", *reached]


def _table(snapshot: Snapshot) -> str:
    status = snapshot.status
    rows = [("NAME", "ROLE", "LEADER", "NODE", "GPU", "PID", "STATE")]
    for each in status.services:
        rows.append((each.name, each.kind, "", each.node, "", str(each.pid or "-"), each.state))
    for rank in status.ranks:
        leader = "yes" if rank.leader else ""
        pid = str(rank.pid or "-")
        rows.append((rank.name, rank.role, leader, rank.node, str(rank.gpu), pid, rank.state))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_row(row, widths) for row in rows)


def _row(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
    return "  ".join(_state(cell) for cell in cells).rstrip()


def _state(text: str) -> str:
    colour = STATE_COLOURS.get(text.strip())
    return click.style(text, fg=colour) if colour else text


def describe_failure(failure: Failure) -> str:
    """Why a run failed, with the last lines of who died first."""
    lines = [failure.reason]
    if failure.log:
        lines.append(f"the end of {failure.log}:" if failure.last_lines else f"{failure.log} is empty")
    return "\n".join([*lines, *(f"  {line}" for line in failure.last_lines)])
