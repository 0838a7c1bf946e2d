"""No container: tasks run on the host. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Sequence

from trtdist.containers.base import Caller, Container, StepOption

__all__ = ["NoContainer"]


class NoContainer:
    """The host itself, with all that it has."""

    program = ""
    asks_for_help = False
    sets_limits = False
    outlives_caller = False
    mounts_read_only = True

    def makes_mount_points(self, caller: Caller) -> bool:
        """There is nothing to mount."""
        return True

    def step_options(self, container: Container) -> Sequence[StepOption]:
        """None."""
        return ()

    def command(self, container: Container, argv: Sequence[str], caller: Caller) -> list[str]:
        """The command as it is."""
        return list(argv)
