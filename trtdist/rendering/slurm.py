"""The files of a run through Slurm: the batch script, for each step a launch line, and what each task does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from trtdist.containers.base import is_path
from trtdist.plan import Plan, Step
from trtdist.rendering.containers import contained, enters, hooked, step_mounts, step_options
from trtdist.rendering.runtimes import beside, scripts_of
from trtdist.rendering.shell import Directive, RenderError
from trtdist.rendering.tasks import enter_file, refuse_unsupported, task_file
from trtdist.rendering.templates import render
from trtdist.slurm.argv import JobOptions, sbatch, sbatch_directives
from trtdist.topology.model import Topology

__all__ = ["job_options", "limit_seconds", "render_slurm"]

# The time limit is told this long before it, beyond what an orderly stop takes, for Slurm may be a minute early; but at
# most this share of it.
_WARNING, _WARNING_SHARE = 120.0, 0.25
# What the next job has, by default, to wait in the queue and to come up, before this one stops; at most this share of
# the time limit.
_LEAD, _LEAD_SHARE = 900.0, 0.5


@dataclass(frozen=True)
class _Layout:
    """The nodes of a step: `nodes` are indexes in ascending order. When `per_node` is set the tasks fill them one
    after the other, so many on each; else `tasks` has the node of each task."""

    nodes: tuple[int, ...]
    per_node: int | None
    tasks: tuple[int, ...]


def job_options(plan: Plan, topology: Topology) -> JobOptions:
    """What is asked of Slurm, by sbatch and salloc alike."""
    wanted, given = plan.allocation, topology.slurm
    return JobOptions(
        name=plan.name,
        nodes=wanted.nodes,
        tasks_per_node=wanted.tasks_per_node,
        cpus_per_task=wanted.cpus_per_task,
        mem=wanted.mem,
        time=given.time,
        account=given.account,
        partition=given.partition,
        gpus_per_node=wanted.gpus_per_node,
        gpu_directive=given.gpu_directive,
        exclusive=given.exclusive,
        qos=given.qos,
        reservation=given.reservation,
        constraint=given.constraint,
        exclude=given.exclude,
        segment=given.segment,
        warning=_warning(topology),
        crowded=_may_crowd(plan),
        requeue=given.requeue,
        spares=given.spares,
        lead=_lead(topology),
        extra=given.extra_sbatch,
    )


def _may_crowd(plan: Plan) -> bool:
    """Slurm refuses a step of more tasks than CPUs unless it is told that they share them."""
    return plan.engine == "reference"


def _warning(topology: Topology) -> int:
    limit = limit_seconds(topology.slurm.time) if topology.slurm.time else None
    wanted = _WARNING + topology.timeouts.stop
    return round(wanted if limit is None else min(wanted, _WARNING_SHARE * limit))


def _lead(topology: Topology) -> int:
    """How many seconds before the time limit the next job is asked for, 0 for never; RenderError when that is no time
    to come up in."""
    given, warning = topology.slurm.handover, _warning(topology)
    limit = limit_seconds(topology.slurm.time) if topology.slurm.time else None
    if given is None:
        return 0
    if topology.slurm.requeue:
        raise RenderError(
            "slurm.requeue and slurm.handover are two ways to go on, and a job that is queued again would meet the run"
            " that has taken over: leave one of them out"
        )
    if given == "auto":
        return round(warning + _LEAD if limit is None else min(warning + _LEAD, _LEAD_SHARE * limit))
    if given <= warning:
        raise RenderError(
            f"slurm.handover: {given:g} s before the time limit are too late, the run stops {warning} s before it:"
            " make it longer by what the next job waits in the queue and takes to come up"
        )
    if limit is not None and given >= limit:
        raise RenderError(f"slurm.handover: {given:g} s are no part of slurm.time, {limit:g} s: make it shorter")
    return round(given)


def limit_seconds(text: str) -> float | None:
    """A time limit as sbatch takes it: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S; None for what has no end."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in (days or "0", *parts)):
        return None
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    return int(days or 0) * 86400.0 + sum(int(part) * unit for part, unit in zip(parts, units, strict=False))


def render_slurm(plan: Plan, topology: Topology) -> Mapping[str, str]:
    """The files by path in the run directory: `job.sbatch`, and in `scripts/` those of each step, of the supervisor and
    README.txt. They name neither the run nor its folder.

    RenderError when the topology cannot be carried out.
    """
    refuse_unsupported(topology, slurm=True)
    options = job_options(plan, topology)
    directives = [Directive(word) for word in sbatch(options)]
    scripts = _scripts(plan, topology, sbatch_directives(options))
    return {
        "job.sbatch": render("job.sbatch.j2", plan=plan, directives=directives, lead=options.lead),
        **{f"scripts/{name}": text for name, text in scripts.items()},
    }


def _scripts(plan: Plan, topology: Topology, options: list[str]) -> dict[str, str]:
    given = topology.slurm
    common = {"plan": plan, "extra": given.extra_srun, "setup": given.setup, "crowded": _may_crowd(plan)}
    scripts = {
        "README.txt": render("README.slurm.txt.j2", options=options, **common),
        "each-node.srun.sh": render("each-node.srun.sh.j2", **common),
        "head.srun.sh": render("head.srun.sh.j2", **common),
        "resolve.sh": render("resolve.sh.j2", **common),
        "supervisor.sh": render("supervisor.sh.j2", settings=_settings(topology), lead=_lead(topology), **common),
    }
    for step in plan.steps:
        scripts |= {**_step(plan, topology, step, common), **beside(plan, topology, step)}
    return scripts


def _step(plan: Plan, topology: Topology, step: Step, common: Mapping[str, object]) -> dict[str, str]:
    kind = "workers" if step.kind == "workers" else "program"
    task, inside = f"{step.stem}.task.sh", f"{step.stem}.inside.sh"
    of_srun = {
        "options": step_options(topology) if contained(topology, step) else (),
        "mounts": step_mounts(topology),
        "fetched": not is_path(topology.container.image or ""),
        "hooked": hooked(topology),
        "ranked": scripts_of(topology).in_image(step),
    }
    line = render(f"{kind}.srun.sh.j2", step=step, layout=_layout(step), **of_srun, **common)
    files = {f"{step.stem}.srun.sh": line, task: task_file(plan, topology, step, slurm=True)}
    if enters(topology, step):
        files |= {inside: files[task], task: enter_file(plan, topology, step, inside, slurm=True)}
    return files


def _settings(topology: Topology) -> list[str]:
    """The times that the supervisor is told."""
    times = topology.timeouts
    return [
        f"--ready-timeout={times.ready:g}",
        f"--service-timeout={times.services:g}",
        f"--stall-timeout={times.stall:g}",
        f"--grace={times.stop:g}",
        f"--warning={_warning(topology)}",
    ]


def _layout(step: Step) -> _Layout:
    """Slurm fills nodes in their order, as block distribution does, when each holds the same number of tasks."""
    counts = Counter(step.nodes)
    nodes = tuple(sorted(counts))
    per_node = counts[nodes[0]]
    even = step.nodes == tuple(node for node in nodes for _ in range(per_node))
    return _Layout(nodes, per_node if even else None, step.nodes)
