"""`trtdist submit`: hand a deployment to Slurm as a batch job."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtdist.cli.stopsignals import StopSignals
from trtdist.errors import InputError, InterruptedRunError, TrtdistError

if TYPE_CHECKING:
    from trtdist.plan import Plan
    from trtdist.rundir import RunDir
    from trtdist.topology import Topology

__all__ = ["command"]


@click.command("submit")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--wait", is_flag=True, help="Return at READY, or when it failed.")
@click.option("--dry-run", is_flag=True, help="Print exactly what would be submitted, and submit nothing.")
@click.option("--handover", is_flag=True, help="Before the time limit the next job takes over, and so on.")
@click.option("--json", "as_json", is_flag=True, help="Print run_id, job_id and run_dir as JSON.")
@click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Override a value; may be repeated.")
@click.option("--no-check", is_flag=True, help="Do not look first whether this machine can see image and folders.")
def command(
    file: Path,
    wait: bool,
    dry_run: bool,
    handover: bool,
    as_json: bool,
    overrides: tuple[str, ...],
    no_check: bool,
) -> None:
    """Submit the topology in FILE as a batch job and print the run id and the job id.

    `trtdist status` and `trtdist logs -f` follow it from now on, `trtdist down` ends it. With --wait the command
    returns at READY with 0, with 1 when the run failed, with 3 when it was not ready in time; Ctrl-C then leaves the
    job alone and ends the command with 130.

    With --handover (`slurm.handover: auto`; a time such as 20m says how long before the limit) the job submits the next
    one in time. Once that is READY clients find it in place of this run, which finishes what is open and ends.
    `trtdist down` ends both.
    """
    from trtdist.cli.checking import usable
    from trtdist.planning import Target, plan

    topology = usable(file, overrides)
    if handover and topology.slurm.handover is None:
        topology = topology.model_copy(update={"slurm": topology.slurm.model_copy(update={"handover": "auto"})})
    planned = plan(topology, Target.SLURM)
    if dry_run:
        click.echo(_script(planned, topology), nl=False)
        return
    if not no_check:
        from trtdist.cli.doctor_here import refuse_unfit

        refuse_unfit(topology, local=False)
    signals = StopSignals()
    run, job = _submit(planned, topology)
    if as_json:
        click.echo(json.dumps({"version": 1, "run_id": run.run_id, "job_id": job, "run_dir": str(run.path)}))
    else:
        click.echo(f"{run.run_id} is job {job}")
        _tell_of_hand_over(planned, topology)
    if wait:
        _wait(run, job, signals)


def _script(planned: Plan, topology: Topology) -> str:
    from trtdist.rendering import render_slurm

    return render_slurm(planned, topology)["job.sbatch"]


def _submit(planned: Plan, topology: Topology) -> tuple[RunDir, str]:
    """The run, and the id of its job. Of a job that Slurm refuses nothing stays; of one that it may have taken, though
    it did not answer, the run says so in its verdict."""
    from trtdist.cli import jobs
    from trtdist.cli.aftermath import bury
    from trtdist.cli.latest import remove
    from trtdist.cli.prepare import prepare_slurm
    from trtdist.rendering import job_options
    from trtdist.supervisor.facts import Outcome

    jobs.require_slurm("sbatch")
    options = job_options(planned, topology)
    jobs.refuse_misfit(options)
    run = prepare_slurm(topology, planned, environ=os.environ, now=time.time())
    try:
        return run, jobs.submit(run, options)
    except InputError:
        remove(run, os.environ)
        raise
    except TrtdistError as error:
        bury(run, Outcome("FAILED", error.exit_code, str(error)))
        raise


def _tell_of_hand_over(planned: Plan, topology: Topology) -> None:
    from trtdist.cli.progress import say
    from trtdist.observe.times import span
    from trtdist.rendering import job_options, limit_seconds

    lead, limit = job_options(planned, topology).lead, limit_seconds(topology.slurm.time or "")
    if lead:
        after = "" if limit is None else f", {span(limit - lead)} after this one has started"
        say(f"the next job is submitted {span(lead)} before the time limit{after}; `trtdist status` says when that is")


def _wait(run: RunDir, job: str, signals: StopSignals) -> None:
    from trtdist.cli.following import Waiting
    from trtdist.cli.progress import say
    from trtdist.cli.status import next_due
    from trtdist.cli.submitted import Submitted
    from trtdist.cli.up import conclude, ready_words, until_ready
    from trtdist.observe.jobs import JobWatcher
    from trtdist.observe.snapshot import RunReader
    from trtdist.supervisor.facts import Settings

    signals.hold()
    following = Waiting(run, Submitted(run, job, JobWatcher()), signals, Settings())
    if until_ready(following):
        say(ready_words(following, f"trtdist down {run.run_id}"))
        due = RunReader(run).look().next_due
        if due is not None:
            say(f"  goes on   {next_due(due, time.time())}")
    elif following.given_up:
        raise InterruptedRunError(f"job {job} is left alone: `trtdist down {run.run_id}` ends it")
    else:
        conclude(following, False)
