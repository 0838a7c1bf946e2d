"""Why a job ends, from what Slurm shows while it does: each kind of end has its own verdict."""

from __future__ import annotations

import pytest

from trtdist.slurm import parse
from trtdist.supervisor import messages
from trtdist.supervisor.in_job import why_ended

# As `scontrol --oneliner show job` of Slurm 22.05 shows them while processes are left.
ENDING = "JobId=7 JobState=COMPLETING Reason={reason} Dependency=(null) PreemptTime={preempted} NodeList=node1"


@pytest.mark.parametrize(
    ("reason", "preempted", "down", "verdict"),
    [
        ("None", "None", [], ("INTERRUPTED", 130, "job 7 was cancelled (scancel)")),
        ("TimeLimit", "None", [], ("TIMEOUT", 1, "job 7 reached its time limit")),
        ("NodeDown", "None", ["node2"], ("FAILED", 1, "job 7 lost node2")),
        ("None", "None", ["node2", "node3"], ("FAILED", 1, "job 7 lost node2, node3")),
        ("NodeDown", "None", [], ("FAILED", 1, "job 7 lost a node")),
        ("None", "2026-11-25T16:09:36", [], ("INTERRUPTED", 130, "job 7 was preempted by another job")),
    ],
)
def test_why_a_job_ends(reason: str, preempted: str, down: list[str], verdict: tuple[str, int, str]) -> None:
    shown = parse.fields(ENDING.format(reason=reason, preempted=preempted))
    found = why_ended("7", shown, down)
    assert (found.state, found.exit_code, found.reason) == verdict


@pytest.mark.parametrize("state", ["TIMEOUT", "NODE_FAIL", "PREEMPTED"])
def test_a_cause_that_slurm_names_is_certain(state: str) -> None:
    assert why_ended("7", {"JobState": state}, []).certain
    assert why_ended("7", {"JobState": "CANCELLED"}, []) == messages.EveryoneTerminated("job 7 was cancelled (scancel)")
