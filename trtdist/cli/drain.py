"""`trtdist drain`: have one server of a run finish its requests and leave."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import click

from trtdist.cli.progress import Lines, say
from trtdist.errors import InputError, NotReadyError, TrtdistError
from trtdist.events import ControlRefused, ControlTaken, Drained, EventReader, Record
from trtdist.observe.living import find_live_run
from trtdist.observe.snapshot import RunReader
from trtdist.rundir import RunDir
from trtdist.supervisor import control

__all__ = ["command"]

_PACE = 0.05
_TO_REACT = 15.0
# The two lines of a request that is refused are written one right after the other.
_TO_REFUSE = 0.2
_TO_TELL = 30.0
_GRACE = 600.0


@click.command("drain")
@click.argument("names", nargs=-1, required=True, metavar="[RUN] SERVER")
@click.option(
    "--grace",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=_GRACE,
    show_default=True,
    help="How long its requests may take before it is killed.",
)
def command(names: tuple[str, ...], grace: float) -> None:
    """Have SERVER of a run (`ctx.1`) get no more requests, finish those that it has, and end; the others serve on.

    RUN is named as for `trtdist down`. It takes `launch: per_server`, and another server of the same role. The server
    does not come back in this run. The command returns when it has left; asked again, it can only have less time.
    """
    if len(names) > 2:
        raise InputError(f"one server is drained at a time, not {' '.join(names)}: trtdist drain [RUN] SERVER")
    server = names[-1]
    found = find_live_run(names[0] if len(names) == 2 else None, os.environ)
    known = [each.name for each in RunReader(found).plan.servers]
    if server not in known:
        raise InputError(f"{found.run_id} has no server {server}: name one of {', '.join(known)}")
    drained = _Draining(found, server, grace).go()
    click.echo(drained.reason)
    if "killed" in drained.reason:
        raise click.exceptions.Exit(NotReadyError.exit_code)


class _Draining:
    """One request and what comes of it."""

    def __init__(self, run: RunDir, server: str, grace: float) -> None:
        self._run = run
        self._server = server
        self._grace = grace
        self._events = EventReader(run.events)
        self._events.poll()
        self._display = Lines(time.time())
        self._taken = False
        self._refused = ""
        self._drained: Drained | None = None

    def go(self) -> Drained:
        """Ask and wait; TrtdistError when it is refused or nothing comes of it."""
        try:
            self._request = control.ask(self._run, control.DRAIN, self._grace, self._server)
        except OSError as error:
            raise TrtdistError(f"cannot leave a request for {self._run.run_id}: {error.strerror}") from error
        self._wait(_TO_REACT, lambda: self._taken)
        if not self._taken:
            raise TrtdistError(f"the supervisor of {self._run.run_id} does not react: see `trtdist status`")
        self._wait(_TO_REFUSE, lambda: bool(self._drained or self._refused))
        if not self._refused:
            say(f"{self._server} of {self._run.run_id} is asked to finish its requests and to leave")
        self._wait(self._grace + _TO_TELL, lambda: bool(self._drained or self._refused))
        if self._refused:
            raise InputError(self._refused)
        if self._drained is None:
            raise TrtdistError(f"{self._server} did not leave: see `trtdist status`")
        return self._drained

    def _wait(self, seconds: float, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + seconds
        while not holds() and time.monotonic() < until and not self._run.verdict.exists():
            records = self._events.poll()
            for record in records:
                self._hear(record)
            # How it ends is said by the command itself.
            ends = (Drained, ControlRefused)
            self._display.tell([record for record in records if not isinstance(record.event, ends)])
            time.sleep(_PACE)

    def _hear(self, record: Record) -> None:
        event = record.event
        if isinstance(event, ControlTaken) and event.request == self._request:
            self._taken = True
        elif isinstance(event, ControlRefused) and event.request == self._request:
            self._refused = event.reason
        elif isinstance(event, Drained) and event.step == self._server:
            self._drained = event
