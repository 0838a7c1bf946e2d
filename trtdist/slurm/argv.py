"""Command lines of Slurm's programs as argv lists, from frozen facts. Pure.

Options are written with their long names and `=`, which every release since 20.11 reads alike. Standard library,
Python 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trtdist.slurm.hostlist import fold

__all__ = [
    "OUTER_TASK_PREFIXES",
    "JobOptions",
    "sacct_jobs",
    "sacct_steps",
    "sacctmgr_account",
    "sacctmgr_accounts",
    "salloc",
    "sbatch",
    "sbatch_directives",
    "scancel",
    "scancel_waiting",
    "scontrol_hostnames",
    "scontrol_show",
    "sinfo",
    "sinfo_nodes",
    "squeue_folders",
    "squeue_jobs",
    "squeue_steps",
    "srun_beside",
    "srun_help",
    "srun_mpi_list",
    "without_outer_task",
]

# Prefixes of what an outer step tells its own task; a program that finds them believes to be that task.
OUTER_TASK_PREFIXES = ("OMPI_", "PMI_", "PMIX_", "PRTE_", "SLURM_STEP_")

# The name last, since it may hold anything.
_JOB_FORMAT = "%i|%T|%r|%S|%e|%N|%u|%j"


@dataclass(frozen=True)
class JobOptions:
    """What is asked of Slurm for a whole deployment.

    `mem` is per node in MiB or as Slurm writes it ("64G"), 0 for all of it. `gpu_directive` is `gpus-per-node`, `gres`
    or `none`. `warning` is how many seconds before the time limit the batch script gets USR1, 0 for no warning; Slurm
    may send it up to a minute earlier. With `requeue`, a job that is preempted or loses its first node is queued again;
    with `spares`, so many of `nodes` may be lost. With `crowded`, ranks take next to no CPU and may be more than there
    are CPUs. `lead` is how many seconds before the time limit a job like it is asked for, to take over; 0 for
    never.
    """

    name: str
    nodes: int
    tasks_per_node: int
    cpus_per_task: int | None = None
    mem: int | str = 0
    time: str | None = None
    account: str | None = None
    partition: str | None = None
    gpus_per_node: int = 0
    gpu_directive: str = "gpus-per-node"
    exclusive: bool = False
    qos: str | None = None
    reservation: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    segment: int | None = None
    comment: str | None = None
    output: str | None = None
    warning: int = 0
    crowded: bool = False
    requeue: bool = False
    spares: int = 0
    lead: int = 0
    extra: tuple[str, ...] = ()


def srun_beside(
    job: str,
    nodes: Sequence[str],
    command: Sequence[str],
    *,
    name: str,
    terminal: bool = False,
    extra: Sequence[str] = (),
) -> list[str]:
    """A short step on some nodes of a running job, one task on each, beside everything that runs there.

    Its standard input is that of srun, which passes it to the first task; with `terminal` the task has one.
    """
    count = len(nodes)
    argv = ["srun", f"--jobid={job}", f"--job-name={name}", f"--nodes={count}", f"--ntasks={count}"]
    argv += ["--ntasks-per-node=1", f"--nodelist={fold(nodes)}", "--overlap", "--mem=0", "--cpu-bind=none"]
    argv += ["--mpi=none", "--export=ALL", "--quit-on-interrupt", *(["--pty"] if terminal else ["--input=0"])]
    return [*argv, *extra, *command]


def without_outer_task(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for an srun that names its job itself: nothing of the step or job in which this runs."""
    ours = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
    return {
        name: value
        for name, value in environ.items()
        if name in ours or not name.startswith(("SLURM_", "SRUN_", *OUTER_TASK_PREFIXES))
    }


def sbatch_directives(job: JobOptions) -> list[str]:
    """The options of a job, one for each `#SBATCH` line; the same go to salloc."""
    options: dict[str, str | int | None] = {
        "job-name": job.name,
        "account": job.account,
        "partition": job.partition,
        "qos": job.qos,
        "reservation": job.reservation,
        "time": job.time,
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks_per_node,
        "cpus-per-task": job.cpus_per_task,
        "mem": job.mem,
        "constraint": job.constraint,
        "exclude": job.exclude,
        "segment": job.segment,
        "comment": job.comment,
    }
    argv = _given(options) + _gpus(job) + (["--no-kill"] if job.spares else [])
    return argv + (["--exclusive"] if job.exclusive else []) + list(job.extra)


def sbatch(job: JobOptions) -> list[str]:
    """The directives of a batch script: those of the job, and what only a batch script can ask for."""
    argv = sbatch_directives(job) + _given({"output": job.output})
    # Unless that is asked for, Slurm does not run a batch script of ours again: the run has ended and says how.
    argv += ["--open-mode=append", "--requeue" if job.requeue else "--no-requeue"]
    return argv + ([f"--signal=B:USR1@{job.warning}"] if job.warning else [])


def salloc(job: JobOptions, command: tuple[str, ...] = ()) -> list[str]:
    """The command that gets an allocation and runs `command` on the submit host; without one, no shell either."""
    return ["salloc", *sbatch_directives(job), *(command or ("--no-shell",))]


def scancel_waiting(job: str) -> list[str]:
    """Takes a job from the queue; one that has started goes on."""
    return ["scancel", "--state=PENDING", job]


def scancel(*targets: str, signal: str = "") -> list[str]:
    """Ends jobs or steps (`7`, `7.2`), or sends them a signal such as `TERM` instead.

    A signal to a job goes to its batch script alone, which passes on what is to be passed on.
    """
    if not signal:
        return ["scancel", *targets]
    whole_job = [] if all("." in target for target in targets) else ["--batch"]
    return ["scancel", f"--signal={signal}", *whole_job, *targets]


def squeue_jobs(jobs: tuple[str, ...] = ()) -> list[str]:
    """Lists jobs, those given or all of this user, for `parse.jobs`."""
    chosen = [f"--jobs={','.join(jobs)}"] if jobs else ["--me"]
    return ["squeue", *chosen, "--noheader", "--states=all", f"--format={_JOB_FORMAT}"]


def squeue_folders() -> list[str]:
    """Lists the jobs of this user that are not over with the folders in which they run, for `parse.folders`."""
    return ["squeue", "--me", "--noheader", "--format=%i|%Z"]


def sacct_jobs(jobs: tuple[str, ...]) -> list[str]:
    """Lists jobs that squeue has forgotten, for `parse.past_jobs`; it fails where there is no accounting."""
    columns = "JobIDRaw,State,Reason,Start,End,NodeList,User,JobName"
    options = ["--allocations", "--noheader", "--parsable2", f"--format={columns}"]
    return ["sacct", f"--jobs={','.join(jobs)}", *options]


def sacct_steps(job: str) -> list[str]:
    """Lists how a job and its steps ended, for `parse.past_steps`; it fails where there is no accounting."""
    columns = "JobIDRaw,State,ExitCode,End,NodeList,JobName"
    return ["sacct", f"--jobs={job}", "--noheader", "--parsable2", f"--format={columns}"]


def squeue_steps(job: str) -> list[str]:
    """Lists the running steps of a job, for `parse.steps`."""
    return ["squeue", "--steps", f"--jobs={job}", "--noheader", "--format=%i|%N|%j"]


def scontrol_show(kind: str, name: str = "") -> list[str]:
    """Shows `job`, `config`, `step`, `node` or `partition`, one line each, for `parse.fields`."""
    return ["scontrol", "--oneliner", "show", kind, *([name] if name else [])]


def scontrol_hostnames(hostlist: str) -> list[str]:
    """Expands a host list."""
    return ["scontrol", "show", "hostnames", hostlist]


def sinfo() -> list[str]:
    """Lists partitions, one line for each kind of node, for `parse.partitions`."""
    return ["sinfo", "--noheader", "--format=%R|%a|%l|%D|%c|%m|%G"]


def sinfo_nodes(names: Sequence[str]) -> list[str]:
    """Lists nodes with their states, for `parse.node_states`."""
    return ["sinfo", "--noheader", "--Node", f"--nodes={','.join(names)}", "--format=%N|%T"]


def sacctmgr_accounts(user: str) -> list[str]:
    """Lists the accounts that a user may charge, for `parse.accounts`; it fails where there is no accounting."""
    options = ["--noheader", "--parsable2", "--readonly"]
    return ["sacctmgr", *options, "show", "user", user, "withassoc", "format=DefaultAccount,Account"]


def sacctmgr_account(account: str) -> list[str]:
    """Prints the name of an account that there is, and nothing for another; it fails where there is no accounting."""
    return ["sacctmgr", "--noheader", "--parsable2", "--readonly", "show", "account", account, "format=Account"]


def srun_help() -> list[str]:
    """Lists the options of srun, those of plugins such as pyxis included."""
    return ["srun", "--help"]


def srun_mpi_list() -> list[str]:
    """Lists the MPI types that srun knows, for `parse.mpi_types`."""
    return ["srun", "--mpi=list"]


def _gpus(job: JobOptions) -> list[str]:
    if not job.gpus_per_node or job.gpu_directive == "none":
        return []
    if job.gpu_directive == "gres":
        return [f"--gres=gpu:{job.gpus_per_node}"]
    return [f"--gpus-per-node={job.gpus_per_node}"]


def _given(options: dict[str, str | int | None]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items() if value is not None]
