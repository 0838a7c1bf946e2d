"""`trtdist logs`: show or follow the logs of a run."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import click

from trtdist.cli.output import nobody_reads
from trtdist.errors import InputError
from trtdist.observe.living import find_live_run
from trtdist.observe.logs import ByTime, Line, OneByOne, Reading, Start, follow, matching, select, shown_names
from trtdist.observe.runs import find_run, list_runs
from trtdist.observe.snapshot import RunReader
from trtdist.observe.tail import Tail
from trtdist.observe.times import parse_since
from trtdist.rundir import RunDir

__all__ = ["command"]

_POLL_SECONDS = 0.2
_STATE_SECONDS = 1.0

Find = Callable[["str | None", Mapping[str, str]], RunDir]
Render = Callable[[Line], str]


@click.command("logs")
@click.argument("words", metavar="[RUN] [SELECTOR]...", nargs=-1)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on with new lines until the run ends.")
@click.option("--since", metavar="TIME", help="From a time on: 30s, 5m, 1h30m (ago) or 2026-11-24T10:15:00.")
@click.option("--tail", metavar="N", type=click.IntRange(min=0), help="Only the last N lines of each log.")
@click.option("--grep", metavar="REGEX", help="Only lines in which the regular expression is found.")
@click.option("--rank", metavar="N", type=click.IntRange(min=0), help="Only rank N of each chosen server.")
@click.option("--merge", is_flag=True, help="Several logs in the order of time, not one after the other.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: name, line.")
def command(
    words: tuple[str, ...],
    following: bool,
    since: str | None,
    tail: int | None,
    grep: str | None,
    rank: int | None,
    merge: bool,
    as_json: bool,
) -> None:
    """Show or follow the logs of a run.

    RUN is a run id, the start of one, or a topology's name; without it the newest run is meant. A SELECTOR is a log
    (gen.0.1, router, nats, etcd, supervisor), a server (gen.0), a role (gen), a pattern ('gen.*') or `workers` (what
    the launcher of the ranks printed). Without a selector all logs are shown.
    """
    wanted = _expression(grep)
    start = Start(None if since is None else parse_since(since, time.time()), tail)
    run, selectors = _resolve(words, find_live_run if following else find_run)
    reader = RunReader(run)
    names = select(reader.plan, run, selectors, rank)
    tails = [(name, Tail(run.log(name), start.offset(run.log(name)))) for name in names]
    reading: Reading = ByTime(tails) if merge else OneByOne(tails)
    lines: Iterable[Line | None] = reading.past(Tail.read_all)
    if following:
        more = follow(reading, _Ended(reader), lambda: time.sleep(_POLL_SECONDS))
        lines = chain(reading.past(Tail.read), more)
    empty = [name for name in names if not _has_lines(run.log(name))]
    if empty and selectors and not following:
        click.echo(f"nothing has been written to {', '.join(empty)}", err=True)
    _print(lines, wanted, _json if as_json else _renderer(names))


def _has_lines(log: Path) -> bool:
    try:
        return log.stat().st_size > 0
    except OSError:
        return False


class _Ended:
    """Whether the run has ended, looked up at most once a second."""

    def __init__(self, reader: RunReader) -> None:
        self._reader = reader
        self._next = 0.0
        self._over = False

    def __call__(self) -> bool:
        if not self._over and time.monotonic() >= self._next:
            self._over = self._reader.look().final
            self._next = time.monotonic() + _STATE_SECONDS
        return self._over


def _resolve(words: Sequence[str], find: Find) -> tuple[RunDir, tuple[str, ...]]:
    """The run and the selectors: the first word is a run's id or folder, else a log of the newest run, else a run."""
    if not words:
        return find(None, os.environ), ()
    first, rest = words[0], tuple(words[1:])
    if "/" in first or any(run.run_id == first for run in list_runs(os.environ)):
        return find(first, os.environ), rest
    newest = find(None, os.environ)
    plan = RunReader(newest).plan
    if matching(plan, newest, first):
        return newest, tuple(words)
    try:
        return find(first, os.environ), rest
    except InputError as error:
        raise InputError(
            f"{first!r} is no log of {newest.run_id} (it has {shown_names(plan, newest)}) and {error}"
        ) from error


def _expression(grep: str | None) -> re.Pattern[str] | None:
    if grep is None:
        return None
    try:
        return re.compile(grep)
    except re.error as error:
        raise InputError(f"--grep {grep!r} is no regular expression: {error}") from error


def _renderer(names: Sequence[str]) -> Render:
    if len(names) == 1:
        return lambda line: line.text
    width = max(len(name) for name in names)
    return lambda line: f"{line.name:<{width}} | {line.text}"


def _json(line: Line) -> str:
    return json.dumps({"name": line.name, "line": line.text})


def _print(lines: Iterable[Line | None], wanted: re.Pattern[str] | None, render: Render) -> None:
    """Writes what is wanted, whatever encoding the terminal has; ends quietly when nobody reads any more."""
    out = sys.stdout.buffer
    try:
        for line in lines:
            if line is None:
                out.flush()
            elif wanted is None or wanted.search(line.text):
                out.write(render(line).encode("utf-8", "replace") + b"\n")
        out.flush()
    except BrokenPipeError:
        nobody_reads()
