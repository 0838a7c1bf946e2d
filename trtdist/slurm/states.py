"""What the states of a job mean for a run, and which reasons for waiting never go away. Pure, Python 3.9."""

from __future__ import annotations

from trtdist.slurm.parse import Job, Node

__all__ = [
    "ENDED",
    "LIVE",
    "WAITING",
    "ended_because",
    "hopeless",
    "how_away",
    "node_is_away",
    "node_is_down",
    "phase",
    "why_down",
]

WAITING, LIVE, ENDED = "waiting", "live", "ended"

# squeue(1), "Job state codes". COMPLETING: the end has begun and processes may still be there.
_PHASES = {
    "PENDING": WAITING,
    "CONFIGURING": WAITING,
    "REQUEUED": WAITING,
    "REQUEUE_FED": WAITING,
    "REQUEUE_HOLD": WAITING,
    "RESV_DEL_HOLD": WAITING,
    "SPECIAL_EXIT": WAITING,
    "RUNNING": LIVE,
    "RESIZING": LIVE,
    "SIGNALING": LIVE,
    "STAGE_OUT": LIVE,
    "STOPPED": LIVE,
    "SUSPENDED": LIVE,
}

_ENDS = {
    "BOOT_FAIL": "a node did not boot",
    "CANCELLED": "it was cancelled (scancel)",
    "COMPLETED": "it ended",
    "COMPLETING": "it is being ended",
    "DEADLINE": "its deadline passed",
    "FAILED": "its script failed",
    "NODE_FAIL": "a node failed",
    "OUT_OF_MEMORY": "it used more memory than it was given",
    "PREEMPTED": "it was preempted by another job",
    "REVOKED": "another cluster of the federation runs it",
    "TIMEOUT": "its time limit was reached",
}

# sinfo(1), "Node state codes". Jobs go on where it is "failing", and where a node does not answer at the moment (`*`).
_DOWN = ("down", "fail", "powering_down")
_DOUBTFUL = ("failing", "unknown")

# slurmctld's own word for a node that was silent for SlurmdTimeout (src/slurmctld/ping_nodes.c).
_SILENT = "Not responding"

_EXPLAINED = ("BOOT_FAIL", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY")

# squeue(1), "Job reason codes": waiting does not help against these, whoever else ends.
_HOPELESS = {
    "AccountNotAllowed": "the partition does not admit the account: set slurm.account or slurm.partition",
    "AssocMaxJobsLimit": "the account admits no more jobs: set slurm.account or end one",
    "BadConstraints": "no node has what slurm.constraint asks for: correct it",
    "DependencyNeverSatisfied": "it waits for a job that cannot end as wanted: cancel it",
    "InvalidAccount": "the account does not exist: set slurm.account",
    "InvalidQOS": "the quality of service does not exist: set slurm.qos",
    "JobHeldAdmin": "an administrator holds it: ask them to release it",
    "JobHeldUser": "it is held: release it with scontrol release",
    "PartitionConfig": "the partition never runs such a job (nodes, time): ask for less or set slurm.partition",
    "PartitionDown": "the partition is down: set slurm.partition to another one",
    "PartitionInactive": "the partition is inactive: set slurm.partition to another one",
    "PartitionNodeLimit": "it asks for more nodes than the partition admits: set slurm.nodes or slurm.partition",
    "PartitionTimeLimit": "it asks for more time than the partition admits: set slurm.time or slurm.partition",
    "QOSNotAllowed": "the partition does not admit the quality of service: set slurm.qos",
    "ReservationDeleted": "the reservation was deleted: set slurm.reservation",
    "launch_failed_requeued_held": "its launch failed and it is held: look at the nodes, then scontrol release it",
}


def phase(state: str) -> str:
    """WAITING, LIVE or ENDED; what a newer Slurm may call its jobs otherwise counts as LIVE."""
    return _PHASES.get(state, ENDED if state in _ENDS else LIVE)


def ended_because(job: Job) -> str:
    """The end of the sentence "job 7 is over: ...", with Slurm's reason where that is one for the end."""
    how = _ENDS.get(job.state, job.state)
    # A job that was cancelled while it waited keeps its reason for waiting.
    return f"{how} ({job.reason})" if job.reason and job.state in _EXPLAINED else how


def hopeless(reason: str) -> str:
    """Why a pending job will never start, and what to do; "" when it may."""
    return _HOPELESS.get(reason, "")


def node_is_down(state: str) -> bool:
    """Whether nothing runs on a node of this state any more; a state may have flags (`DOWN+DRAIN`)."""
    return any(word.rstrip("*") in _DOWN for word in state.lower().split("+"))


def why_down(node: Node) -> str:
    """Who set a node down and why, in words such as "set down by root: bad fan"; "" when Slurm does not say."""
    if not node.reason or node.reason == _SILENT:
        return "it does not respond" if node.reason else ""
    return f"set down by {node.by}: {node.reason}" if node.by else node.reason


def node_is_away(state: str) -> bool:
    """Whether nothing should be started on a node of this state: it is down, soon will be, or does not answer (`*`)."""
    return state.endswith("*") or state.lower() in _DOUBTFUL or node_is_down(state)


def how_away(state: str) -> str:
    """The end of the sentence "from node1, which ..." about a node that is away, as far as its state tells."""
    silent = state.endswith("*")
    if node_is_down(state):
        return "is down (it does not respond)" if silent else "is down"
    return "does not respond" if silent else f"Slurm calls {state.lower()}"
