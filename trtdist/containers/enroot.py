"""Enroot without the pyxis plugin of Slurm. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Sequence

from trtdist.containers.base import Caller, Container, Mount, StepOption

__all__ = ["Enroot"]

# In an fstab line blanks separate, and backslashes and hashes mean something; on the command line colons separate.
_ESCAPED = str.maketrans({character: f"\\{ord(character):03o}" for character in ": \t\n\\#"})


class Enroot:
    """`enroot start` of a squashfs file, or of a container that `enroot create` has made; hooks of the site run.

    Shares process ids, network and /dev/shm.
    """

    program = "enroot"
    asks_for_help = True
    sets_limits = False
    outlives_caller = False
    mounts_read_only = True

    def makes_mount_points(self, caller: Caller) -> bool:
        """As it is told by the flag x-create."""
        return True

    def step_options(self, container: Container) -> Sequence[StepOption]:
        """None."""
        return ()

    def command(self, container: Container, argv: Sequence[str], caller: Caller) -> list[str]:
        """`--rc`, which not every release has, replaces what the image would run before `argv`: its entry point."""
        words = ["enroot", "start", *([f"--rc={caller.rc}"] if "--rc" in caller.knows else [])]
        if container.writable:
            words.append("--rw")
        words += [f"--env={name}" for name in container.variables]
        words += [f"--mount={_mount(mount)}" for mount in container.mounts]
        return [*words, container.image, *argv]


def _mount(mount: Mount) -> str:
    """With escapes as getmntent knows them, which enroot-mount reads the line with."""
    paths = [path.translate(_ESCAPED) for path in (mount.source, mount.target)]
    return ":".join([*paths, "x-create=auto,rbind" + ("" if mount.writable else ",ro")])
