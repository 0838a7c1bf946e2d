"""Shows a run on its way: a live table on a terminal, else a line for each thing that happens."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import click

from trtdist.cli.status import STATE_COLOURS
from trtdist.events import (
    CanaryFailed,
    CanaryPassed,
    ControlRefused,
    Drained,
    EndpointUp,
    Event,
    Record,
    Restarting,
    Rung,
    RunState,
    Stalled,
    StepStarted,
    TaskExited,
    TaskRefused,
    TaskUnwell,
    WrittenOff,
)
from trtdist.observe.snapshot import RunReader, Snapshot
from trtdist.observe.state import RunStatus
from trtdist.observe.times import span

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

__all__ = ["RUNG_WORDS", "Display", "Lines", "LiveTable", "on_terminal", "say"]

RUNG_WORDS = {
    "": "",
    "started": "started",
    "process": "processes are up",
    "engine": "engine is loaded",
    "registered": "registered in etcd",
    "answering": "answers",
    "canary": "answered a prompt",
}
_ON_ITS_WAY_DOWN = ("STOPPING", "STOPPED", "FAILED", "TIMEOUT", "INTERRUPTED")
_REDRAW_SECONDS = 0.1
_ROWS = 24
# Lines of the terminal that are not rows: the run's own, the headings, the rest of a long table, what comes after.
_OTHER_LINES = 7


class Display(Protocol):
    """Shows what happens."""

    def tell(self, records: Sequence[Record]) -> None:
        """Show what happened since the last time; also called when nothing did."""
        ...


def on_terminal() -> bool:
    """Whether progress is seen by a person who can be shown moving text."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def say(text: str) -> None:
    """Write a line of progress; a terminal that is gone is no reason to stop."""
    with suppress(OSError):
        click.echo(text, err=True)


class Lines:
    """One line on standard error for each thing that happened, with the seconds since `began` (since the epoch)."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._state = ""
        self._rungs: set[tuple[str, str]] = set()
        self._refusals: set[str] = set()

    def tell(self, records: Sequence[Record]) -> None:
        for record in records:
            text = self._text(record.event)
            if text:
                say(f"{max(0.0, record.time - self._began):6.1f} s  {text}")

    def _text(self, event: Event) -> str:
        """What is said of an event, "" for nothing."""
        if isinstance(event, RunState):
            self._state = event.state
        elif isinstance(event, Rung):
            # A step of one server has its name, and both climb.
            told = (event.name, event.rung) in self._rungs
            self._rungs.add((event.name, event.rung))
            if told:
                return ""
        elif isinstance(event, TaskExited):
            if self._state in _ON_ITS_WAY_DOWN and _as_asked(event):
                return f"{event.name} stopped"
            self._rungs.clear()
        elif isinstance(event, TaskRefused):
            # All ranks of a node lack the same.
            told = event.reason in self._refusals
            self._refusals.add(event.reason)
            if told:
                return ""
        elif isinstance(event, CanaryPassed) and self._state == "READY":
            return ""
        describe = _LINES.get(type(event))
        return describe(event) if describe else ""


def _run_state(event: RunState) -> str:
    return f"{event.state}: {event.detail}" if event.detail else event.state


def _rung(event: Rung) -> str:
    """Steps are told of by what the supervisor did and saw."""
    version = f" ({event.detail})" if event.rung == "engine" and event.detail else ""
    return f"{event.name}: {RUNG_WORDS.get(event.rung, event.rung)}{version}" if "." in event.name else ""


def _exited(event: TaskExited) -> str:
    how = f"exit code {event.code}" if event.signal is None else f"signal {event.signal}"
    return f"{event.name} ended ({how})"


def _restarting(event: Restarting) -> str:
    pause = f" in {event.pause:g} s" if event.pause else ""
    return f"{event.reason}; {event.step} is started again{pause} (restart {event.attempt} of {event.most})"


def _as_asked(event: TaskExited) -> bool:
    """Whether a task ended as one does that is asked to, with INT or TERM."""
    asked = (signal.SIGINT, signal.SIGTERM)
    return event.signal in asked or event.code == 0 or event.code in [128 + number for number in asked]


def _stalled(event: Stalled) -> str:
    doing = f": it {event.doing}" if event.doing else ""
    return f"{event.server} makes no progress since {span(event.seconds)}; {event.task} {event.how}{doing}"


def _passed(event: CanaryPassed) -> str:
    return f"a prompt crossed {_path(event)} in {event.seconds:.2f} s: {event.text!r}"


def _failed(event: CanaryFailed) -> str:
    return f"a prompt did not cross {_path(event)}: {event.reason}"


def _path(event: CanaryPassed | CanaryFailed) -> str:
    return f"{event.context} and {event.generation}" if event.context else event.generation


_LINES: Mapping[type, Callable[[Any], str]] = {
    RunState: _run_state,
    StepStarted: lambda event: f"{event.step} started",
    EndpointUp: lambda event: f"{event.service} is healthy at {event.url}",
    Rung: _rung,
    TaskExited: _exited,
    TaskRefused: lambda event: f"{event.name} {event.reason}",
    Stalled: _stalled,
    Restarting: _restarting,
    WrittenOff: lambda event: f"{event.reason}; the run goes on without it",
    Drained: lambda event: event.reason,
    ControlRefused: lambda event: event.reason,
    TaskUnwell: lambda event: f"{event.name} {event.reason}",
    CanaryPassed: _passed,
    CanaryFailed: _failed,
}


class LiveTable:
    """A table of services and servers on the terminal that follows the run; it stays there at the end."""

    def __init__(self, reader: RunReader, began: float) -> None:
        from rich.console import Console
        from rich.live import Live

        self._reader = reader
        self._began = began
        self._next = 0.0
        console = Console(stderr=True, highlight=False)
        self._rows = max(1, min(_ROWS, console.height - _OTHER_LINES))
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):
            self._live.stop()

    def tell(self, records: Sequence[Record]) -> None:
        if records or time.monotonic() >= self._next:
            self.redraw()

    def redraw(self) -> None:
        """Show the run as it is now."""
        self._next = time.monotonic() + _REDRAW_SECONDS
        with suppress(OSError):
            self._live.update(_picture(self._reader.look(), time.time() - self._began, self._rows), refresh=True)


def _picture(snapshot: Snapshot, seconds: float, rows: int) -> Group:
    """The run as it is now: a line and a table of so many rows at most."""
    from rich.console import Group

    state = snapshot.status.state
    return Group(f"{snapshot.run.run_id}  {_coloured(state)}  {span(seconds)}", _table(snapshot.status, rows))


def _table(status: RunStatus, most: int) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("NAME", "ROLE", "STATE", ""):
        table.add_column(heading)
    rows = [(each.name, each.kind, each.state, _service_words(each.rung)) for each in status.services]
    rows += [(each.name, each.role, each.state, RUNG_WORDS.get(each.rung, each.rung)) for each in status.servers]
    rows.sort(key=lambda row: (row[2] == "READY") if len(rows) > most else False)
    for name, role, state, words in rows[:most]:
        table.add_row(name, role, _coloured(state), words)
    if len(rows) > most:
        ready = sum(row[2] == "READY" for row in rows[most:])
        table.add_row(f"and {len(rows) - most} more", "", "", f"{ready} of them READY")
    return table


def _service_words(rung: str) -> str:
    return "healthy" if rung == "answering" else RUNG_WORDS.get(rung, rung)


def _coloured(state: str) -> str:
    colour = STATE_COLOURS.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state
