"""Shell that runs after slurm.setup, as the tasks of a run do."""

from __future__ import annotations

from collections.abc import Sequence

from trtdist.rendering.shell import quote

__all__ = ["after_setup"]


def after_setup(setup: Sequence[str], script: str) -> list[str]:
    """The beginning of a command line that runs the script with the words that follow as its arguments.

    A line of the setup that fails ends it; what setup prints is told apart from what the script prints.
    """
    lines = "".join(f"eval {quote(line)}\n" for line in setup)
    first = f"{{\nset -e\n{lines}set +e\n}} </dev/null >&2\n" if setup else ""
    return ["bash", "-c", first + script, "bash"]
