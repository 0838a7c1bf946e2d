"""The step files of the local launcher: for each step a launch line and what each task does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trtdist.plan import Plan, Rank, Server, Step
from trtdist.rendering.shell import RenderError, refuse_reserved
from trtdist.rendering.templates import render
from trtdist.topology.model import Topology

__all__ = ["render_local"]

_WITHOUT_GPUS = frozenset({"reference"})


@dataclass(frozen=True)
class _Task:
    """One rank as a task of a step: `number` within the step, `devices` the GPUs of its server on its node."""

    number: int
    server: str
    rank: int
    size: int
    world_rank: int
    gpu: int
    devices: str


def render_local(plan: Plan, topology: Topology) -> Mapping[str, str]:
    """The files of `scripts/` by name: `NN-name.local.sh`, `NN-name.task.sh` and README.txt.

    RenderError when the local launcher cannot carry the topology out.
    """
    _refuse_unsupported(topology)
    files: dict[str, str] = {}
    for step in plan.steps:
        launch, task = (_workers if step.kind == "workers" else _program)(plan, topology, step)
        files[f"{step.stem}.local.sh"] = launch
        files[f"{step.stem}.task.sh"] = task
    files["README.txt"] = render("README.txt.j2", plan=plan)
    return files


def _refuse_unsupported(topology: Topology) -> None:
    if topology.runtime != "trtdist":
        raise RenderError(f"runtime {topology.runtime} cannot be started yet; write `runtime: trtdist`")
    if topology.container.runtime != "none":
        raise RenderError(
            f"container runtime {topology.container.runtime} cannot be started on this machine yet; "
            "--set container.runtime=none --set container.image=null runs on the host"
        )
    for name in topology.container.env:
        refuse_reserved(name)


def _program(plan: Plan, topology: Topology, step: Step) -> tuple[str, str]:
    """A head service, the router, the front end or the canary: one process on this machine."""
    arguments = ["trtdist.services", step.name] if step.kind == "service" else [f"trtdist.serving.{step.kind}"]
    values = {"plan": plan, "step": step, "arguments": arguments}
    return render("program.local.sh.j2", **values), render("program.task.sh.j2", **values)


def _workers(plan: Plan, topology: Topology, step: Step) -> tuple[str, str]:
    """The ranks of one server or of all: one MPI world."""
    tasks = _tasks([plan.server(name) for name in step.servers])
    launch = render("workers.local.sh.j2", plan=plan, step=step)
    task = render(
        "workers.task.sh.j2",
        plan=plan,
        step=step,
        tasks=tasks,
        gpus=plan.engine not in _WITHOUT_GPUS,
        variables=topology.container.env,
        workdir=topology.container.workdir,
    )
    return launch, task


def _tasks(servers: list[Server]) -> list[_Task]:
    ranks = [(server, rank) for server in servers for rank in server.ranks]
    return [
        _Task(number, server.name, rank.rank, server.size, rank.world_rank, rank.gpu, _devices(server, rank))
        for number, (server, rank) in enumerate(ranks)
    ]


def _devices(server: Server, rank: Rank) -> str:
    """All GPUs of the server on the rank's node, in rank order.

    An engine takes device `rank % count`, and reaches its neighbours' memory only on devices that it sees.
    """
    return ",".join(str(other.gpu) for other in server.ranks if other.node == rank.node)
