"""`trtdist up`: bring a deployment up and stay with it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdist.cli.stopsignals import StopSignals
from trtdist.errors import InterruptedRunError, TrtdistError

if TYPE_CHECKING:
    from trtdist.cli.bringup import BringUp
    from trtdist.cli.following import Following
    from trtdist.observe.snapshot import Snapshot
    from trtdist.rundir import RunDir
    from trtdist.supervisor.facts import Outcome, Settings
    from trtdist.topology import Topology

__all__ = ["command", "conclude", "ready_words", "until_ready"]


@click.command("up")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--local", is_flag=True, help="Bring it up on this machine alone.")
@click.option("--detach", is_flag=True, help="Return at READY and let the run live on.")
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Override a value; may be repeated.")
@click.option(
    "--ready-timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="Give up when it is not READY by then, instead of timeouts.ready.",
)
@click.option("--no-check", is_flag=True, help="Do not look first whether this machine can see image and folders.")
def command(
    file: Path, local: bool, detach: bool, overrides: tuple[str, ...], ready_timeout: float | None, no_check: bool
) -> None:
    """Bring the topology in FILE up and stay with it until Ctrl-C, which takes it down in order.

    It comes up through Slurm: in the current allocation, or in one that salloc gets and that is given back at the end.
    With --local it comes up on this machine alone.

    It is READY when a real prompt has crossed the whole path. A second Ctrl-C shortens the stop. With --detach the
    command returns at READY; `trtdist down` ends the run then. The exit code is 1 when the run failed, 3 when it was
    not ready in time, 130 after Ctrl-C.
    """
    signals = StopSignals()
    chosen = _Choice(overrides, ready_timeout, detach, not no_check)
    bring_up, settings = chosen.locally(file) if local else chosen.through_slurm(file)
    signals.hold()
    following = _start(bring_up, signals, settings)
    ready = until_ready(following)
    if ready:
        _out(ready_words(following, "trtdist down" if detach else "Ctrl-C, or `trtdist down` from elsewhere"))
    if not (ready and detach):
        conclude(following, ready)


@dataclass(frozen=True)
class _Choice:
    """What the command line says about how a topology comes up."""

    overrides: tuple[str, ...]
    ready_timeout: float | None
    detach: bool
    checked: bool

    def locally(self, file: Path) -> tuple[BringUp, Settings]:
        """On this machine, and in which time; InputError when it cannot."""
        from trtdist.cli.bringup import LocalBringUp
        from trtdist.planning import Target, plan

        topology = self._topology(file, local=True)
        planned = plan(topology, Target.LOCAL)
        if topology.slurm.handover is not None:
            from trtdist.cli.progress import say

            say("trtdist: slurm.handover is for `trtdist submit`: a run on this machine has no time limit")
        settings = _settings(topology)
        return LocalBringUp(topology, planned, settings, 0 if self.detach else os.getpid()), settings

    def through_slurm(self, file: Path) -> tuple[BringUp, Settings]:
        """In the allocation that is there, else in one that salloc gets; InputError when it cannot."""
        from trtdist.cli import jobs
        from trtdist.cli.progress import say
        from trtdist.cli.slurm_bringup import SlurmBringUp
        from trtdist.planning import Target, plan
        from trtdist.rendering import job_options

        topology = self._topology(file, local=False)
        planned = plan(topology, Target.SLURM)
        if topology.slurm.handover is not None:
            say("trtdist: slurm.handover is for `trtdist submit`: this run ends with its allocation")
        job = job_options(planned, topology)
        borrowed = None
        if os.environ.get("SLURM_JOB_ID"):
            jobs.require_slurm("srun")
            there = jobs.refuse_small(job, os.environ)
            borrowed = there.id, there.nodes
        else:
            jobs.require_slurm("salloc")
            jobs.refuse_misfit(job)
        return SlurmBringUp(topology, planned, job, borrowed, not self.detach), _settings(topology)

    def _topology(self, file: Path, local: bool) -> Topology:
        from trtdist.cli.checking import usable
        from trtdist.cli.doctor_here import refuse_unfit

        topology = usable(file, self.overrides)
        if self.checked:
            refuse_unfit(topology, local=local)
        if self.ready_timeout is None:
            return topology
        timeouts = topology.timeouts.model_copy(update={"ready": self.ready_timeout})
        return topology.model_copy(update={"timeouts": timeouts})


def _settings(topology: Topology) -> Settings:
    from trtdist.supervisor.facts import Settings

    timeouts = topology.timeouts
    return Settings(timeouts.ready, timeouts.services, stall_timeout=timeouts.stall, grace=timeouts.stop)


def _start(bring_up: BringUp, signals: StopSignals, settings: Settings) -> Following:
    """Make the run directory and start the supervisor; a run that does not get that far says so in its verdict."""
    from trtdist.supervisor.facts import Outcome

    run = bring_up.prepare()
    if signals.wait(0) is not None:
        _bury(run, Outcome("INTERRUPTED", 130, "interrupted before anything was started"))
        raise InterruptedRunError("interrupted before anything was started")
    try:
        supervised = bring_up.supervise(run)
    except TrtdistError as error:
        _bury(run, Outcome("FAILED", 1, str(error)))
        raise
    # Imported while the supervisor starts.
    from trtdist.cli.following import Following

    return Following(run, supervised, signals, settings)


def _bury(run: RunDir, outcome: Outcome) -> None:
    from trtdist.cli.aftermath import bury

    bury(run, outcome)


def until_ready(following: Following) -> bool:
    """Follow the run until it is READY (True) or over; show how it comes up."""
    from trtdist.cli.progress import Lines, LiveTable, on_terminal, say
    from trtdist.observe.snapshot import RunReader

    say(f"{following.run.run_id} in {following.run.path}")
    if not on_terminal():
        return following.until_ready(Lines(following.began))
    with LiveTable(RunReader(following.run), following.began) as table:
        ready = following.until_ready(table)
        table.redraw()
    return ready


def ready_words(following: Following, end: str) -> str:
    """That a run is READY, and what can be done with it; `end` says how it is taken down."""
    from trtdist.observe.snapshot import RunReader
    from trtdist.observe.times import span

    look = RunReader(following.run).look()
    took = (look.status.ready or time.time()) - (look.status.begun or following.began)
    return (
        f"{following.run.run_id} is READY after {span(took)}\n"
        '  ask it    trtdist client --prompt "The capital of France is"\n'
        + _over_http(look)
        + "  watch it  trtdist status, trtdist logs -f\n"
        f"  end it    {end}"
    )


def _over_http(look: Snapshot) -> str:
    from trtdist.observe.snapshot import job_of

    ends = look.endpoints
    if not ends.http_url:
        return ""
    if job_of(look.run):
        return f"  over HTTP trtdist forward --to http, with a key of {ends.http_keys_file}\n"
    key = f", with a key of {ends.http_keys_file}" if ends.http_keys_file else ""
    return f"  over HTTP {ends.http_url}/v1, as OpenAI's clients do{key}\n"


def conclude(following: Following, ready: bool) -> None:
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

    found = verdict.read(following.run)
    if found is not None:
        return found
    assert following.death is not None
    return bury(following.run, after_death(following.run, following.death))


def _tell_end(run: RunDir, found: Mapping[str, Any]) -> None:
    """One sentence on the end; after a failure also the last lines of who died first."""
    from trtdist.cli.progress import say
    from trtdist.cli.status import describe_failure
    from trtdist.cli.why import in_short
    from trtdist.observe.state import failure_of

    failure = failure_of(found)
    if failure is None:
        say(f"trtdist: {run.run_id} is down: {found.get('reason')}")
        return
    log = str(run.path / failure.log) if failure.log else ""
    say(f"trtdist: {run.run_id} failed: {describe_failure(replace(failure, log=log))}")
    say(in_short(run))


def _out(text: str) -> None:
    """Write to standard output; that nobody reads is no reason to end the run."""
    with suppress(OSError):
        click.echo(text)
