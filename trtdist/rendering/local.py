"""The step files of the local launcher: for each step a launch line and what each task does."""

from __future__ import annotations

from collections.abc import Mapping

from trtdist.plan import Plan, Step
from trtdist.rendering.containers import enters
from trtdist.rendering.runtimes import beside
from trtdist.rendering.tasks import enter_file, refuse_unsupported, task_file
from trtdist.rendering.templates import render
from trtdist.topology.model import Topology

__all__ = ["render_local"]


def render_local(plan: Plan, topology: Topology) -> Mapping[str, str]:
    """The files of `scripts/` by name: `NN-name.local.sh`, `NN-name.task.sh` and README.txt.

    RenderError when the local launcher cannot carry the topology out.
    """
    refuse_unsupported(topology, slurm=False)
    files: dict[str, str] = {}
    for step in plan.steps:
        files |= _workers(plan, topology, step) if step.kind == "workers" else _program(plan, topology, step)
        files |= beside(plan, topology, step)
    files["README.txt"] = render("README.txt.j2", plan=plan)
    return files


def _workers(plan: Plan, topology: Topology, step: Step) -> dict[str, str]:
    """Ranks; those of a step share a container, which holds their mpiexec too."""
    launch, inside = f"{step.stem}.local.sh", f"{step.stem}.inside.sh"
    enters_one = enters(topology, step)
    line = render("workers.local.sh.j2", plan=plan, step=step, inside=enters_one)
    files = {launch: line, f"{step.stem}.task.sh": task_file(plan, topology, step, slurm=False)}
    if enters_one:
        files |= {inside: line, launch: enter_file(plan, topology, step, inside, slurm=False)}
    return files


def _program(plan: Plan, topology: Topology, step: Step) -> dict[str, str]:
    task, inside = f"{step.stem}.task.sh", f"{step.stem}.inside.sh"
    files = {
        f"{step.stem}.local.sh": render("program.local.sh.j2", plan=plan, step=step),
        task: task_file(plan, topology, step, slurm=False),
    }
    if enters(topology, step):
        files |= {inside: files[task], task: enter_file(plan, topology, step, inside, slurm=False)}
    return files
