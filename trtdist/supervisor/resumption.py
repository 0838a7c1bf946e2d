"""A run that Slurm starts once more, since its job was preempted or lost a node. Standard library, Python 3.9.

It goes on as the same run: the verdict of the attempt before is kept under another name, its events and logs are added
to, and what it left on the head node goes, for its services begin anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from trtdist.rundir import RunDir
from trtdist.supervisor import verdict
from trtdist.supervisor.remains import Remains, local_folder

__all__ = ["attempt", "resume"]


def attempt(environ: Mapping[str, str]) -> int:
    """How often Slurm has started this job before (SLURM_RESTART_COUNT)."""
    text = environ.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdigit() else 0


def resume(run: RunDir, number: int) -> bool:
    """Make a run ready for its next attempt, the `number`th after the first; False for one that somebody had stopped.

    OSError when the verdict of the attempt before cannot be moved.
    """
    before = verdict.read(run)
    if before is not None and before.get("state") == "STOPPED":
        return False
    if before is not None:
        os.replace(run.verdict, run.earlier_verdict(number))
    Remains((), local_folder(run)).remove_folder()
    return True
