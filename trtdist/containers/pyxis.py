"""Pyxis, the plugin of Slurm that starts tasks in containers of enroot. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Sequence

from trtdist.containers.base import Caller, Container, Mount, StepOption, refuse

__all__ = ["Pyxis", "mount_list"]

_SEPARATORS = ":, \t\\#"


class Pyxis:
    """Options of srun, which then starts every task inside; each step has a container of its own on each node.

    The container gets no name: with the plugin's usual settings one with a name outlives the job, with tens of GB.
    """

    program = ""
    asks_for_help = False
    sets_limits = False
    outlives_caller = False
    mounts_read_only = True

    def makes_mount_points(self, caller: Caller) -> bool:
        """By itself."""
        return True

    def step_options(self, container: Container) -> Sequence[StepOption]:
        """What a site may have set otherwise is always said; the mounts are not among them (`mount_list`)."""
        options = [f"--container-image={container.image}"]
        options.append("--container-mount-home" if container.home else "--no-container-mount-home")
        options.append("--container-writable" if container.writable else "--container-readonly")
        newer = [StepOption("--no-container-entrypoint", "--no-container-entrypoint")]
        if container.variables:
            newer.append(StepOption(f"--container-env={','.join(container.variables)}", "--container-env"))
        return [*map(StepOption, options), *newer]

    def command(self, container: Container, argv: Sequence[str], caller: Caller) -> list[str]:
        """A task is inside already."""
        return list(argv)


def mount_list(mounts: Sequence[Mount]) -> str:
    """The value of `--container-mounts`, which a step must have once: srun keeps the last of several (_do_option_cb in
    Slurm's plugstack.c). InputError for a path that has a separator in it."""
    return ",".join(map(_mount, mounts))


def _mount(mount: Mount) -> str:
    paths = [refuse(path, _SEPARATORS, "the mount", "pyxis") for path in (mount.source, mount.target)]
    return ":".join([*paths, *([] if mount.writable else ["ro"])])
