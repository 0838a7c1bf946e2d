"""`trtdist up`: bring a deployment up and stay with it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdist.cli.stopsignals import StopSignals
from trtdist.errors import InputError, InterruptedRunError, TrtdistError

if TYPE_CHECKING:
    from trtdist.cli.bringup import BringUp
    from trtdist.cli.following import Following
    from trtdist.rundir import RunDir
    from trtdist.supervisor.facts import Settings

__all__ = ["command"]


@click.command("up")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--local", is_flag=True, help="Bring it up on this machine alone.")
@click.option("--detach", is_flag=True, help="Return at READY and let the run live on.")
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Override a value; may be repeated.")
@click.option(
    "--ready-timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="Give up when it is not READY by then, instead of timeouts.ready.",
)
def command(file: Path, local: bool, detach: bool, overrides: tuple[str, ...], ready_timeout: float | None) -> None:
    """Bring the topology in FILE up and stay with it until Ctrl-C, which takes it down in order.

    It is READY when a real prompt has crossed the whole path. A second Ctrl-C shortens the stop. With --detach the
    command returns at READY; `trtdist down` ends the run then. The exit code is 1 when the run failed, 3 when it was
    not ready in time, 130 after Ctrl-C.
    """
    signals = StopSignals()
    if not local:
        raise InputError("up only works with --local in this version: add it to bring FILE up on this machine")
    bring_up, settings = _locally(file, overrides, ready_timeout, 0 if detach else os.getpid())
    signals.hold()
    following = _start(bring_up, signals, settings)
    ready = _until_ready(following)
    if ready:
        _tell_ready(following, "trtdist down" if detach else "Ctrl-C, or `trtdist down` from elsewhere")
    if not (ready and detach):
        _stay(following, ready)


def _locally(
    file: Path, overrides: tuple[str, ...], ready_timeout: float | None, bound_to: int
) -> tuple[BringUp, Settings]:
    """How the topology comes up on this machine, and in which time; InputError when it cannot."""
    from trtdist.cli.bringup import LocalBringUp
    from trtdist.planning import Target, plan
    from trtdist.supervisor.facts import Settings
    from trtdist.topology import load

    topology = load(file, overrides=overrides, environ=os.environ)
    planned = plan(topology, Target.LOCAL)
    timeouts = topology.timeouts
    settings = Settings(ready_timeout or timeouts.ready, timeouts.services, grace=timeouts.stop)
    return LocalBringUp(topology, planned, settings, bound_to), settings


def _start(bring_up: BringUp, signals: StopSignals, settings: Settings) -> Following:
    """Make the run directory and start the supervisor; a run that does not get that far says so in its verdict."""
    from trtdist.cli.aftermath import bury
    from trtdist.cli.following import Following
    from trtdist.supervisor.facts import Outcome

    run = bring_up.prepare()
    if signals.wait(0) is not None:
        bury(run, Outcome("INTERRUPTED", 130, "interrupted before anything was started"))
        raise InterruptedRunError("interrupted before anything was started")
    try:
        supervised = bring_up.supervise(run)
    except TrtdistError as error:
        bury(run, Outcome("FAILED", 1, str(error)))
        raise
    return Following(run, supervised, signals, settings)


def _until_ready(following: Following) -> bool:
    """Follow the run until it is READY (True) or over; show how it comes up."""
    from trtdist.cli.progress import Lines, LiveTable, on_terminal, say
    from trtdist.observe.snapshot import RunReader

    if not on_terminal():
        say(f"{following.run.run_id} in {following.run.path}")
        return following.until_ready(Lines(following.began))
    with LiveTable(RunReader(following.run), following.began) as table:
        ready = following.until_ready(table)
        table.redraw()
    return ready


def _tell_ready(following: Following, end: str) -> None:
    from trtdist.observe.snapshot import read_env
    from trtdist.observe.times import span

    url = read_env(following.run.resolved_env).get("TRTDIST_HTTP_URL")
    _out(
        f"{following.run.run_id} is READY after {span(time.time() - following.began)}\n"
        '  ask it    trtdist client --prompt "The capital of France is"\n'
        + (f"  over HTTP {url}/v1, as OpenAI's clients do\n" if url else "")
        + "  watch it  trtdist status, trtdist logs -f\n"
        f"  end it    {end}"
    )


def _stay(following: Following, ready: bool) -> None:
    """Stay with the run to its end, and end with its exit code."""
    from trtdist.cli.progress import Lines

    following.until_end(Lines(following.began))
    found = _verdict(following)
    code = int(found.get("exit_code", 1))
    _tell_end(following.run, found)
    # Whoever waits for READY must not take a run that somebody else stopped before for one that is up.
    raise click.exceptions.Exit(code if ready or code else TrtdistError.exit_code)


def _verdict(following: Following) -> Mapping[str, Any]:
    """How the run ended; the verdict is written, and everything removed, for a supervisor that died before."""
    from trtdist.cli.aftermath import after_death, bury
    from trtdist.supervisor import verdict
    from trtdist.supervisor.facts import Outcome

    found = verdict.read(following.run)
    if found is not None:
        return found
    if following.stuck:
        return bury(following.run, Outcome("INTERRUPTED", 130, "interrupted; the supervisor hung and was killed"))
    assert following.death is not None
    return bury(following.run, after_death(following.run, following.death))


def _tell_end(run: RunDir, found: Mapping[str, Any]) -> None:
    """One sentence on the end; after a failure also the last lines of who died first."""
    from trtdist.cli.progress import say
    from trtdist.cli.status import describe_failure
    from trtdist.observe.state import failure_of

    failure = failure_of(found)
    if failure is None:
        say(f"trtdist: {run.run_id} is down: {found.get('reason')}")
        return
    log = str(run.path / failure.log) if failure.log else ""
    say(f"trtdist: {run.run_id} failed: {describe_failure(replace(failure, log=log))}")


def _out(text: str) -> None:
    """Write to standard output; that nobody reads is no reason to end the run."""
    with suppress(OSError):
        click.echo(text)
