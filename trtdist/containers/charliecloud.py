"""Charliecloud: `ch-run`, without privileges and without a daemon. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Sequence

from trtdist.containers.base import Caller, Container, StepOption, refuse

__all__ = ["Charliecloud"]

_OVERLAY = "--write-fake"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Charliecloud:
    """ch-run shares process ids, network, /dev/shm and /tmp with the node. It has no read-only mounts, and makes mount
    points only in an overlay, which not every release has."""

    program = "ch-run"
    asks_for_help = True
    sets_limits = False
    outlives_caller = False
    mounts_read_only = False

    def makes_mount_points(self, caller: Caller) -> bool:
        """In an overlay."""
        return _OVERLAY in caller.knows

    def step_options(self, container: Container) -> Sequence[StepOption]:
        """None."""
        return ()

    def command(self, container: Container, argv: Sequence[str], caller: Caller) -> list[str]:
        """What the image says about the environment lies in its /ch/environment, and nothing else holds inside."""
        words = ["ch-run", f"--uid={caller.uid}", f"--gid={caller.gid}", "--unset-env=*", f"--set-env=PATH={_PATH}"]
        if caller.lists_environment:
            words.append("--set-env")
        if _OVERLAY in caller.knows:
            words.append(_OVERLAY)
        elif container.writable:
            words.append("--write")
        for mount in container.mounts:
            source, target = (refuse(path, ":", "the mount", "charliecloud") for path in (mount.source, mount.target))
            words.append(f"--bind={source}:{target}")
        return [*words, container.image, "--", *argv]
