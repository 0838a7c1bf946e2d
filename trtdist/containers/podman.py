"""Podman. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Sequence

from trtdist.containers.base import Caller, Container, StepOption, csv_mount, is_path
from trtdist.containers.docker import common_options

__all__ = ["Podman"]


class Podman:
    """`podman run`, as root or not. An image that is a folder is used as it is, beneath an overlay."""

    program = "podman"
    asks_for_help = False
    sets_limits = True
    outlives_caller = True
    mounts_read_only = True

    def makes_mount_points(self, caller: Caller) -> bool:
        """In the overlay, or the container's own layer."""
        return True

    def step_options(self, container: Container) -> Sequence[StepOption]:
        """None."""
        return ()

    def command(self, container: Container, argv: Sequence[str], caller: Caller) -> list[str]:
        """Runs as the caller. PMIx trusts only who has the same user id inside and outside."""
        words = ["podman", "run", *common_options(container, caller), "--passwd=false"]
        if caller.uid != 0:
            words.append("--userns=keep-id")
        if not any(name == "nofile" for name, _ in container.ulimits):
            words.append("--ulimit=host")
        if container.gpus:
            words.append("--device=nvidia.com/gpu=all")
        words += [f"--mount={csv_mount(mount, 'readonly')}" for mount in container.mounts]
        words.append(f"--entrypoint={argv[0]}")
        image = ["--rootfs", f"{container.image}:O"] if is_path(container.image) else [container.image]
        return [*words, *image, *argv[1:]]
