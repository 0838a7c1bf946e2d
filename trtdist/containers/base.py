"""The vocabulary of containers, and the seam that every runtime fills. Pure. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trtdist.errors import InputError

__all__ = ["Caller", "Container", "ContainerRuntime", "Mount", "StepOption", "csv_mount", "is_path", "refuse"]


@dataclass(frozen=True)
class Mount:
    """A path of the node that is seen at `target` inside."""

    source: str
    target: str
    writable: bool = True

    @classmethod
    def parse(cls, text: str) -> Mount:
        """Of SOURCE:TARGET or SOURCE:TARGET:ro, as the topology has it."""
        source, target, *mode = text.split(":")
        return cls(source, target, mode != ["ro"])


@dataclass(frozen=True)
class Container:
    """What a container is to be like.

    `image` is a path on the node or a reference of the runtime's, `home` the home directory if it is seen inside (else
    ""), `shm_size` as in 64G ("" for the node's own /dev/shm), `variables` those of the caller's environment that hooks
    of the runtime read before anything runs inside, `label` the id of the run.
    """

    image: str
    mounts: tuple[Mount, ...] = ()
    writable: bool = False
    home: str = ""
    gpus: bool = False
    shm_size: str = ""
    ulimits: tuple[tuple[str, int], ...] = ()
    variables: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Caller:
    """Who starts a container: `knows` is what the runtime's program prints for --help, `rc` a script that runs its
    arguments, `lists_environment` whether the image has a file with its variables in Charliecloud's place for it."""

    uid: int
    gid: int
    knows: str = ""
    rc: str = ""
    lists_environment: bool = False


@dataclass(frozen=True)
class StepOption:
    """An option of srun; one with `since` is left out where `srun --help` does not list that word."""

    text: str
    since: str = ""


class ContainerRuntime(Protocol):
    """One way into a container. Two ways are possible: through srun, which then starts tasks inside, or by a program
    that each task runs.

    program: what must be on the PATH of a node, "" when a task runs none.
    asks_for_help: whether its options depend on what its program prints for --help.
    sets_limits: whether it sets limits and the size of /dev/shm by itself; else those of the task hold inside.
    outlives_caller: whether what it started goes on when its program is killed.
    mounts_read_only: whether it can keep a mount from being written to.
    """

    program: str
    asks_for_help: bool
    sets_limits: bool
    outlives_caller: bool
    mounts_read_only: bool

    def makes_mount_points(self, caller: Caller) -> bool:
        """Whether a mount may go to where the image has nothing."""
        ...

    def step_options(self, container: Container) -> Sequence[StepOption]:
        """What srun is told; nothing unless srun starts the container. InputError for what cannot be expressed."""
        ...

    def command(self, container: Container, argv: Sequence[str], caller: Caller) -> list[str]:
        """The command line that runs `argv` inside. InputError for what cannot be expressed."""
        ...


def is_path(image: str) -> bool:
    """Whether an image is a file or folder, rather than a reference that the runtime looks up."""
    return image.startswith("/")


def csv_mount(mount: Mount, read_only: str) -> str:
    """A mount as a record of comma-separated values, which docker, podman and apptainer take for --mount."""
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    return ",".join(map(_csv, fields)) + ("" if mount.writable else f",{read_only}")


def _csv(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if any(character in field for character in ',"\n\r') else field


def refuse(text: str, characters: str, what: str, runtime: str) -> str:
    """The text; InputError when it has one of the characters, which this runtime takes for its own."""
    found = [character for character in characters if character in text]
    if found:
        raise InputError(
            f"{runtime} cannot take {what} {text!r}: {found[0]!r} at position {text.index(found[0]) + 1} separates"
            " its options; use a path without it"
        )
    return text
