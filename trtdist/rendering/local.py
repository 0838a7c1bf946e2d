"""The step files of the local launcher: for each step a launch line and what each task does."""

from __future__ import annotations

from collections.abc import Mapping

from trtdist.plan import Plan
from trtdist.rendering.tasks import refuse_unsupported, task_file
from trtdist.rendering.templates import render
from trtdist.topology.model import Topology

__all__ = ["render_local"]


def render_local(plan: Plan, topology: Topology) -> Mapping[str, str]:
    """The files of `scripts/` by name: `NN-name.local.sh`, `NN-name.task.sh` and README.txt.

    RenderError when the local launcher cannot carry the topology out.
    """
    refuse_unsupported(topology, "on this machine")
    files: dict[str, str] = {}
    for step in plan.steps:
        kind = "workers" if step.kind == "workers" else "program"
        files[f"{step.stem}.local.sh"] = render(f"{kind}.local.sh.j2", plan=plan, step=step)
        files[f"{step.stem}.task.sh"] = task_file(plan, topology, step, slurm=False)
    files["README.txt"] = render("README.txt.j2", plan=plan)
    return files
