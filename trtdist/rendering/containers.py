"""What the scripts say about the container of a step: options of srun, or of the program that enters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trtdist.containers import Container, Mount, StepOption, runtime
from trtdist.containers.base import is_path
from trtdist.containers.pyxis import mount_list
from trtdist.errors import InputError
from trtdist.plan import Step
from trtdist.rendering.runtimes import scripts_of
from trtdist.rendering.shell import RenderError
from trtdist.topology.model import ContainerSection, Topology

__all__ = [
    "contained",
    "enter_options",
    "enters",
    "hooked",
    "needed_by_srun",
    "refuse_container",
    "step_mounts",
    "step_options",
    "uses_gpus",
]

# Hooks of container runtimes read these before anything runs inside; every other variable a task exports by itself.
_OF_HOOKS = ("NVIDIA_", "MELLANOX_", "ENROOT_")
# Under Slurm they would need settings and images of each user on each node, and their containers are not in the step.
_ONE_MACHINE = ("docker", "podman")


def contained(topology: Topology, step: Step) -> bool:
    """Whether a step runs in a container."""
    section = topology.container
    return section.runtime != "none" and (scripts_of(topology).in_image(step) or step.name in section.also)


def enters(topology: Topology, step: Step) -> bool:
    """Whether the tasks of a step start on the host and enter their container by themselves."""
    return contained(topology, step) and bool(runtime(topology.container.runtime).program)


def refuse_container(topology: Topology, *, slurm: bool) -> None:
    """RenderError when the container cannot be what the topology asks for; `slurm` says what starts the tasks."""
    section = topology.container
    name, way = section.runtime, runtime(section.runtime)
    if name == "pyxis" and not slurm:
        raise RenderError(
            "container.runtime: pyxis is a part of Slurm and starts nothing on this machine; "
            "`--set container.runtime=docker` does, or enroot, apptainer, charliecloud, podman"
        )
    if name in _ONE_MACHINE and slurm:
        raise RenderError(
            f"container.runtime: {name} is for one machine (`trtdist up --local`); through Slurm take pyxis, enroot,"
            " apptainer or charliecloud"
        )
    if section.shm_size is not None and (slurm or not way.sets_limits):
        raise RenderError(
            "container.shm_size: ranks of a node speak over its own /dev/shm here; leave shm_size out, which docker"
            " and podman take on one machine, where all ranks share a container"
        )
    if section.ulimits and not way.program:
        raise RenderError(
            f"container.ulimits: with container.runtime {name} the limits of the job hold; leave ulimits out"
            " (srun --propagate, in slurm.extra_srun, passes on those of your shell)"
        )
    if section.env_files and any(":" in path for path in section.env_files.values()):
        raise RenderError("container.env_files: no path may have a colon, since it is mounted; move the file")
    if name == "pyxis" and any(word.startswith("--container-mounts") for word in topology.slurm.extra_srun):
        raise RenderError(
            "slurm.extra_srun: srun keeps one --container-mounts alone, and the run has its own; use container.mounts"
        )
    try:
        step_mounts(topology)
    except InputError as error:
        raise RenderError(f"container.mounts: {error}") from error


def step_options(topology: Topology) -> Sequence[StepOption]:
    """Options of srun, the mounts aside; none unless srun starts the container."""
    return runtime(topology.container.runtime).step_options(_container(topology))


def step_mounts(topology: Topology, *own: Mount) -> str:
    """All mounts as srun takes them, in one option: `own`, and those of the topology. "" unless srun starts the
    container."""
    section = topology.container
    return mount_list((*own, *_container(topology).mounts)) if section.runtime == "pyxis" else ""


def needed_by_srun(topology: Topology) -> dict[str, str]:
    """Of containers that srun starts, what each node must have: the image, if it is a path, and the sources of mounts,
    none of which has a colon, as variables of given.env."""
    if topology.container.runtime != "pyxis":
        return {}
    container = _container(topology)
    image = {"TRTDIST_SRUN_IMAGE": container.image} if is_path(container.image) else {}
    mounts = ":".join(mount.source for mount in container.mounts)
    return {**image, **({"TRTDIST_SRUN_MOUNTS": mounts} if mounts else {})}


def hooked(topology: Topology) -> Mapping[str, str]:
    """Variables of container.env that hooks of the runtime read; where a hook of enroot brings the GPUs, that it is to
    bring all of them, unless the topology says otherwise."""
    section = topology.container
    given = {name: value for name, value in section.env.items() if name.startswith(_OF_HOOKS)}
    by_hook = uses_gpus(topology) and section.runtime in ("pyxis", "enroot")
    return {"NVIDIA_VISIBLE_DEVICES": "all", **given} if by_hook else given


def enter_options(topology: Topology) -> list[str]:
    """The options of `trtdist.supervisor.enter`."""
    section = topology.container
    flags = {"--writable": section.writable, "--home": section.mount_home, "--gpus": uses_gpus(topology)}
    return [
        f"--runtime={section.runtime}",
        f"--image={section.image}",
        *(f"--mount={text}" for text in (*section.mounts, *_files(section))),
        *(f"--variable={name}" for name in hooked(topology)),
        *(f"--ulimit={name}={value}" for name, value in section.ulimits.items()),
        *([f"--shm-size={section.shm_size}"] if section.shm_size else []),
        *(flag for flag, wanted in flags.items() if wanted),
    ]


def uses_gpus(topology: Topology) -> bool:
    """Whether the engine computes on GPUs."""
    return topology.engine != "reference"


def _container(topology: Topology) -> Container:
    section = topology.container
    return Container(
        image=section.image or "",
        mounts=tuple(map(Mount.parse, (*section.mounts, *_files(section)))),
        writable=section.writable,
        home="~" if section.mount_home else "",
        variables=tuple(hooked(topology)),
    )


def _files(section: ContainerSection) -> list[str]:
    return [f"{path}:{path}:ro" for path in section.env_files.values()]
