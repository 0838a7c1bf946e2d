"""Docker. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Sequence

from trtdist.containers.base import Caller, Container, StepOption, csv_mount

__all__ = ["Docker", "common_options"]


class Docker:
    """`docker run`: the daemon starts the container, so nothing of the task is inherited.

    Process ids are shared with the node, or nobody outside could tell which ranks live; so are network and, unless
    the container has a /dev/shm of its own, shared memory, over which the ranks of a node speak.
    """

    program = "docker"
    asks_for_help = False
    sets_limits = True
    outlives_caller = True
    mounts_read_only = True

    def makes_mount_points(self, caller: Caller) -> bool:
        """In the container's own layer."""
        return True

    def step_options(self, container: Container) -> Sequence[StepOption]:
        """None."""
        return ()

    def command(self, container: Container, argv: Sequence[str], caller: Caller) -> list[str]:
        """Runs as the caller, to whom the run directory belongs; the first word of `argv` replaces the entry point."""
        words = ["docker", "run", *common_options(container, caller)]
        if not container.writable:
            # Podman brings it by itself.
            words.append("--tmpfs=/tmp:exec,mode=1777")
        if container.gpus:
            words.append("--gpus=all")
        words += [f"--mount={csv_mount(mount, 'readonly')}" for mount in container.mounts]
        return [*words, f"--entrypoint={argv[0]}", container.image, *argv[1:]]


def common_options(container: Container, caller: Caller) -> list[str]:
    """The options that docker and podman understand alike."""
    words = ["--rm", "--network=host", "--pid=host", "--uts=host", f"--user={caller.uid}:{caller.gid}"]
    words.append(f"--shm-size={container.shm_size}" if container.shm_size else "--ipc=host")
    words += [f"--ulimit={name}={limit}" for name, limit in container.ulimits]
    words += [f"--env={name}" for name in container.variables]
    if not container.writable:
        words.append("--read-only")
    if container.label:
        words.append(f"--label=trtdist.run={container.label}")
    return words
