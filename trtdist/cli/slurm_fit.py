"""What Slurm can be seen to refuse, or never to start, before anything is submitted. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from trtdist.rendering import limit_seconds
from trtdist.slurm.argv import JobOptions
from trtdist.slurm.parse import Partition

__all__ = ["few_cpus", "misfit", "no_successor", "too_small"]


def misfit(job: JobOptions, rows: Sequence[Partition]) -> str:
    """Why no partition that the job may run in can take it, as a sentence; "" when one can.

    `rows` is what sinfo lists, one for each kind of node of a partition. Without a partition the site's default is
    meant, which sinfo does not tell here, so that any will do.
    """
    there = list(dict.fromkeys(row.name for row in rows))
    asked = job.partition.split(",") if job.partition else there
    unknown = [name for name in asked if name not in there]
    if unknown:
        return f"slurm.partition: there is no partition {unknown[0]}; there are {', '.join(there) or 'none'}"
    reasons = [_misfit_in(job, name, [row for row in rows if row.name == name]) for name in asked]
    return "" if not reasons or "" in reasons else "; ".join(reasons)


def no_successor(job: JobOptions, rows: Sequence[Partition], submits: str, partition: str) -> str:
    """Why a job like this one can never take over from it in a partition, as a sentence; "" when that is not seen.

    Both are there at the same time. `rows` are of the partition, `submits` is from where it takes jobs (a host list, ""
    for everywhere). Nodes of which a job takes at most half may hold both.
    """
    if submits:
        return (
            f"slurm.handover: partition {partition} takes jobs from {submits} alone (AllocNodes), and the next job is"
            " submitted from the head node of this one: choose another partition, or leave it out"
        )
    total = sum(row.nodes for row in rows)
    cpus, gpus = job.tasks_per_node * (job.cpus_per_task or 1), job.gpus_per_node
    alone = all(2 * cpus > row.cpus or (job.gpu_directive != "none" and 2 * gpus > row.gpus) for row in rows)
    if (job.exclusive or alone) and 2 * job.nodes > total:
        return (
            f"slurm.handover: two jobs of {_count(job.nodes, 'node')} are there at the same time, and partition"
            f" {partition} has {_count(total, 'node')}: lower the sizes, or leave it out"
        )
    return ""


def too_small(job: JobOptions, nodes: int, gpus: int | None) -> list[str]:
    """What an allocation lacks of nodes and GPUs, as half sentences; `gpus` per node, None when that is not known."""
    missing = []
    if nodes < job.nodes:
        missing.append(f"it has {_count(nodes, 'node')} and {job.nodes} are needed (--nodes={job.nodes})")
    if gpus is not None and gpus < job.gpus_per_node:
        missing.append(f"it has {_count(gpus, 'GPU')} per node and {job.gpus_per_node} are needed")
    return missing


def few_cpus(job: JobOptions, cpus: Sequence[int]) -> list[str]:
    """What it lacks of CPUs, of which there are so many on each of its nodes; empty when that is not known."""
    wanted = job.tasks_per_node * (job.cpus_per_task or 1)
    if min(cpus, default=wanted) >= wanted:
        return []
    options = f"--ntasks-per-node={job.tasks_per_node} --cpus-per-task={job.cpus_per_task or 1}"
    return [f"it has {_count(min(cpus), 'CPU')} on a node and {wanted} are needed ({options})"]


def _misfit_in(job: JobOptions, name: str, rows: Sequence[Partition]) -> str:
    where = f"partition {name}"
    if not any(row.up for row in rows):
        return f"{where} is not up: set slurm.partition to another one"
    total = sum(row.nodes for row in rows)
    if job.nodes > total:
        return f"{where} has {_count(total, 'node')} and {job.nodes} are needed: lower the sizes or set slurm.partition"
    limits = [row.limit for row in rows]
    limit, asked = rows[0].limit, limit_seconds(job.time) if job.time else None
    if asked is not None and limit is not None and None not in limits and asked > limit:
        return f"{where} gives at most {_span(limit)} and slurm.time asks for {_span(asked)}: lower slurm.time"
    return _misfit_on_nodes(job, where, rows)


def _misfit_on_nodes(job: JobOptions, where: str, rows: Sequence[Partition]) -> str:
    """Whether enough nodes have what each node must have."""
    cpus = job.tasks_per_node * (job.cpus_per_task or 1)
    mem = job.mem if isinstance(job.mem, int) else 0
    gpus = 0 if job.gpu_directive == "none" else job.gpus_per_node
    for wanted, what, key, of in (
        (gpus, "GPUs", "slurm.gpus_per_node", [row.gpus for row in rows]),
        (cpus, "CPUs", "slurm.cpus_per_task", [row.cpus for row in rows]),
        (mem, "MiB of memory", "slurm.mem", [row.memory for row in rows]),
    ):
        enough = sum(row.nodes for row, has in zip(rows, of, strict=True) if has >= wanted)
        if enough < job.nodes:
            most = max(of)
            have = f"nodes with at most {most} {what}" if most < wanted else f"only {enough} nodes with {wanted} {what}"
            return f"{where} has {have}, and {_count(job.nodes, 'node')} with {wanted} {what} are needed: see {key}"
    return ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _span(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
