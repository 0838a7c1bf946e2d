"""Jobs of runs: asks for them, and says why Slurm does not give them."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
from collections.abc import Mapping

from trtdist.cli.progress import say
from trtdist.cli.slurm_fit import few_cpus, misfit, no_successor, too_small
from trtdist.errors import InputError, MissingError, SlurmDownError, SlurmError
from trtdist.rundir import RunDir, write_atomic
from trtdist.slurm import argv, hostlist, parse, runner
from trtdist.slurm.argv import JobOptions
from trtdist.slurm.submission import Submission

__all__ = ["refuse_misfit", "refuse_small", "rejected", "require_slurm", "submit"]

_PATIENCE = 10.0


def require_slurm(program: str) -> None:
    """MissingError when this machine has no Slurm."""
    if shutil.which(program) is None:
        raise MissingError(
            f"{program} is not on PATH: run this on a login node of a Slurm cluster, or load its module; "
            "`trtdist up FILE --local` needs this machine alone"
        )


def refuse_misfit(job: JobOptions) -> None:
    """InputError when no partition can take the job, or its account is unknown; the rest is left to Slurm."""
    rows = parse.partitions(runner.run(argv.sinfo(), _PATIENCE))
    reason = misfit(job, rows)
    if reason:
        raise InputError(reason)
    if job.lead:
        _refuse_no_successor(job, rows)
    if job.account is not None:
        _refuse_account(job.account)


def _refuse_no_successor(job: JobOptions, rows: list[parse.Partition]) -> None:
    """InputError when none of the partitions can have a job like this one beside it; the default is not known here."""
    names = job.partition.split(",") if job.partition else list(dict.fromkeys(row.name for row in rows))
    reasons = []
    for name in names:
        try:
            submits = parse.alloc_nodes(runner.run(argv.scontrol_show("partition", name)))
        except SlurmError:
            submits = ""
        reasons.append(no_successor(job, [row for row in rows if row.name == name], submits, name))
    if reasons and "" not in reasons:
        raise InputError(reasons[0])


def _refuse_account(account: str) -> None:
    """InputError when Slurm keeps accounts, and not this one: where it does not enforce them, it would take the job."""
    try:
        if runner.run(argv.sacctmgr_account(account)).strip():
            return
        yours = parse.accounts(runner.run(argv.sacctmgr_accounts(getpass.getuser())))
    except (MissingError, SlurmError):
        return
    remedy = (
        f"set it to one of yours: {', '.join(yours)}" if yours else "ask its administrators for one, or leave it out"
    )
    raise InputError(f"slurm.account: this cluster has no account {account}; {remedy}")


def refuse_small(job: JobOptions, environ: Mapping[str, str]) -> parse.Job:
    """The job that this shell is inside of; InputError says what it lacks for the run.

    Of ranks that may be crowded it is only said that they are.
    """
    number = environ["SLURM_JOB_ID"]
    shown = parse.fields(runner.run(argv.scontrol_show("job", number), _PATIENCE))
    missing = too_small(job, len(hostlist.expand(shown.get("NodeList", ""))), _gpus(shown))
    scarce = few_cpus(job, _cpus(environ))
    if missing or (scarce and not job.crowded):
        raise InputError(f"the allocation {number} is too small: {'; '.join(missing + scarce)}")
    if scarce:
        say(f"trtdist: the allocation {number} is small: {scarce[0]}; ranks share CPUs")
    return parse.jobs(runner.run(argv.squeue_jobs((number,)), _PATIENCE))[0]


def _cpus(environ: Mapping[str, str]) -> list[int]:
    """The CPUs of each node, from the `4(x2),3` of SLURM_JOB_CPUS_PER_NODE; empty when that is not there."""
    found: list[int] = []
    for part in filter(None, environ.get("SLURM_JOB_CPUS_PER_NODE", "").split(",")):
        number, _, times = part.partition("(x")
        found += [int(number)] * int(times.rstrip(")") or 1)
    return found


def _gpus(shown: Mapping[str, str]) -> int | None:
    """The GPUs per node that a job asked for: `gres:gpu:4` or, from newer releases, `gres/gpu:4`; None if not told."""
    words = shown.get("TresPerNode", "").replace("/", ":").split(",")
    counts = [word.split(":")[-1] for word in words if "gpu" in word.split(":")]
    return int(counts[0]) if counts and counts[0].isdigit() else None


def submit(run: RunDir, job: JobOptions) -> str:
    """Submit the batch script of a run; returns the job's id, which is also written to the run directory.

    InputError with Slurm's words and what was asked for when it refuses.
    """
    # On the command line too, where they win over what SBATCH_* of the environment say.
    given = Submission.of(argv.sbatch(job), os.environ)
    write_atomic(run.submission, given.written())
    try:
        number = parse.job_id(runner.run(given.command(run.path)))
    except SlurmDownError:
        raise
    except SlurmError as error:
        raise rejected(str(error), job) from error
    write_atomic(run.slurm_job, number + "\n")
    return number


def rejected(words: str, job: JobOptions) -> InputError:
    """What to tell when Slurm refuses a job."""
    return InputError(f"Slurm refuses the job: {words}; it asks for {shlex.join(argv.sbatch_directives(job))}")
