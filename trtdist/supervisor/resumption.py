"""A run that Slurm starts once more, since its job was preempted or lost a node, or starts although nobody wants it any
more. Standard library, Python 3.9.

It goes on as the same run: the verdict of the attempt before is kept under another name, its events and logs are added
to, and what it left on the head node goes, for its services begin anew.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from trtdist import chain
from trtdist.rundir import RunDir
from trtdist.supervisor import verdict
from trtdist.supervisor.facts import Outcome
from trtdist.supervisor.remains import Remains, local_folder

__all__ = ["attempt", "resume", "unwanted"]


def attempt(environ: Mapping[str, str]) -> int:
    """How often Slurm has started this job before (SLURM_RESTART_COUNT)."""
    text = environ.get("SLURM_RESTART_COUNT", "")
    return int(text) if text.isdigit() else 0


def resume(run: RunDir, number: int) -> bool:
    """Make a run ready for its next attempt, the `number`th after the first; False for one that somebody had stopped,
    or that another one takes over from.

    OSError when what tells the end of the attempt before cannot be moved.
    """
    before = verdict.read(run)
    if before is not None and before.get("state") == "STOPPED":
        return False
    after = chain.heir(run) or chain.awaited(run)
    if after is not None:
        verdict.write_once(run, verdict.compose(Outcome("INTERRUPTED", 130, f"goes on as {after.run_id}"), run, None))
        return False
    if before is not None:
        os.replace(run.verdict, run.earlier_verdict(number))
    # Else it would explain the next death of a supervisor, which nobody has killed.
    run.given_up.unlink(missing_ok=True)
    Remains((), local_folder(run)).remove_folder()
    return True


def unwanted(run: RunDir) -> bool:
    """Whether a run was to take over from one that somebody has stopped since, or that does not wait for it any more;
    it has its verdict then. OSError."""
    before = chain.predecessor(run)
    if before is None or chain.heir(before) == run:
        return False
    reason = chain.displaced(run)
    if not reason and (verdict.read(before) or {}).get("state") == "STOPPED":
        reason = f"{before.run_id}, from which it was to take over, was stopped"
    if not reason:
        return False
    outcome = Outcome("STOPPED", 0, f"not needed any more: {reason}")
    return verdict.write_once(run, verdict.compose(outcome, run, None))
