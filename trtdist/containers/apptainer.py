"""Apptainer, and Singularity, from which it comes. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Sequence

from trtdist.containers.base import Caller, Container, StepOption, csv_mount

__all__ = ["Apptainer"]


class Apptainer:
    """`apptainer exec`, which runs no script of the image; shares process ids, network, /dev/shm and /tmp."""

    asks_for_help = False
    sets_limits = False
    outlives_caller = False
    mounts_read_only = True

    def __init__(self, program: str) -> None:
        self.program = program

    def makes_mount_points(self, caller: Caller) -> bool:
        """In an overlay or underlay, which it sets up by itself."""
        return True

    def step_options(self, container: Container) -> Sequence[StepOption]:
        """None."""
        return ()

    def command(self, container: Container, argv: Sequence[str], caller: Caller) -> list[str]:
        """`writable` is an overlay in memory, which is lost at the end: an image file itself cannot be changed."""
        words = [self.program, "exec", "--cleanenv", "--no-home", "--pwd=/"]
        if container.gpus:
            words.append("--nv")
        if container.writable:
            words.append("--writable-tmpfs")
        words += [f"--mount={csv_mount(mount, 'ro')}" for mount in container.mounts]
        return [*words, container.image, *argv]
