"""What the tasks of a step do: the files `NN-name.task.sh`, which differ between launchers only where they must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trtdist.plan import Plan, Rank, Server, Step
from trtdist.rendering.containers import contained, enter_options, enters, hooked, refuse_container, uses_gpus
from trtdist.rendering.runtimes import scripts_of
from trtdist.rendering.shell import refuse_reserved
from trtdist.rendering.templates import render
from trtdist.topology.lint.versions import release_of
from trtdist.topology.model import Topology
from trtdist.topology.redaction import names_secret

__all__ = ["enter_file", "refuse_unsupported", "task_file"]


@dataclass(frozen=True)
class _Task:
    """One rank as a task of a step: `number` within the step, `devices` the GPUs of its server on its
    node, in the order in which an engine counts them."""

    number: int
    server: str
    rank: int
    size: int
    world_rank: int
    gpu: int
    node: int
    devices: str


def refuse_unsupported(topology: Topology, *, slurm: bool) -> None:
    """RenderError when a topology asks for what cannot be started; `slurm` says what starts the tasks."""
    refuse_container(topology, slurm=slurm)
    for name in (*topology.container.env, *topology.container.env_files):
        refuse_reserved(name)


def task_file(plan: Plan, topology: Topology, step: Step, *, slurm: bool) -> str:
    """What each task of a step does, on the host or inside its container. On the host and through Slurm it runs the
    setup lines and refuses a node that is not its own."""
    inside = contained(topology, step)
    common = {
        "plan": plan,
        "step": step,
        "slurm": slurm,
        "inside": enters(topology, step),
        "handed": inside and not enters(topology, step),
        "setup": topology.slurm.setup if slurm and not inside else (),
        "python": topology.container.python if inside else None,
        "variables": {},
        "files": {},
        "hidden": [],
    }
    runtime = scripts_of(topology)
    if runtime.in_image(step):
        hidden = [name for name in topology.container.env if names_secret(name)]
        common |= {"variables": _variables(plan, topology), "files": topology.container.env_files, "hidden": hidden}
    if step.kind != "workers":
        return render("program.task.sh.j2", **runtime.program(topology, step), **common)
    return render(
        "workers.task.sh.j2",
        tasks=_tasks([plan.server(name) for name in step.servers]),
        gpus=uses_gpus(topology),
        workdir=topology.container.workdir,
        worker=runtime.worker,
        **common,
    )


def _shown(topology: Topology) -> dict[str, str]:
    """The variables whose values a script may have."""
    return {name: value for name, value in topology.container.env.items() if not names_secret(name)}


def enter_file(plan: Plan, topology: Topology, step: Step, inside: str, *, slurm: bool) -> str:
    """What a task does on the host when it enters its container, to go on there with the script `inside`: each task
    through Slurm, the launch line of ranks on one machine, the process of a program."""
    ranks = "workers.enter.sh.j2" if slurm else "workers.enter.local.sh.j2"
    return render(
        ranks if step.kind == "workers" else "program.enter.sh.j2",
        plan=plan,
        step=step,
        slurm=slurm,
        setup=topology.slurm.setup if slurm else (),
        tasks=_tasks([plan.server(name) for name in step.servers]),
        gpus=uses_gpus(topology),
        hooked=hooked(topology),
        container=enter_options(topology),
        inside=inside,
    )


def _variables(plan: Plan, topology: Topology) -> Mapping[str, str]:
    """What programs of the engine's image find in their environment."""
    # A hook of enroot would have each rank load with one thread.
    threads = {"OMP_NUM_THREADS": str(plan.allocation.cpus_per_task)} if plan.over_http else {}
    return {**threads, **_transfer(plan, topology), **_offline(topology), **_shown(topology)}


def _transfer(plan: Plan, topology: Topology) -> Mapping[str, str]:
    """Up to 0.20 TensorRT-LLM is told by a variable how a KV cache travels; our own adapter tells it itself."""
    release = release_of(topology.tensorrt_llm, topology.container.image)
    told = plan.over_http and topology.disaggregated and release is not None and release.minor < (0, 21)
    return {"TRTLLM_USE_UCX_KVCACHE": "1"} if told else {}


def _offline(topology: Topology) -> Mapping[str, str]:
    """Who reads a model from a folder asks no hub for it: compute nodes often have no route there, and wait for it."""
    from_folder = topology.engine == "tensorrt_llm" and topology.model.startswith("/")
    return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if from_folder else {}


def _tasks(servers: Sequence[Server]) -> list[_Task]:
    ranks = [(server, rank) for server in servers for rank in server.ranks]
    return [_task(number, server, rank) for number, (server, rank) in enumerate(ranks)]


def _task(number: int, server: Server, rank: Rank) -> _Task:
    devices = _devices(server, rank, number - rank.rank)
    return _Task(number, server.name, rank.rank, server.size, rank.world_rank, rank.gpu, rank.node, devices)


def _devices(server: Server, rank: Rank, first: int) -> str:
    """All GPUs of the server on the rank's node; `first` is the task of the server's rank 0.

    An engine takes device `rank in its MPI world % count`, and that device must be the one of the plan. It reaches its
    neighbours' memory only on devices that it sees, and all ranks of a node see the same list.
    """
    beside = [other for other in server.ranks if other.node == rank.node]
    counted = sorted(beside, key=lambda other: (first + other.rank) % len(beside))
    return ",".join(str(other.gpu) for other in counted)
