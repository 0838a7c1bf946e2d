"""What Slurm itself recorded of the steps of a run's job and of its nodes, where it keeps records and can be asked."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trtdist.errors import MissingError, SlurmError
from trtdist.slurm import argv, parse, states
from trtdist.slurm.runner import run

__all__ = ["SlurmWord", "ask_nodes", "ask_slurm"]

_TIMEOUT = 5.0
# Ends that need no word: what happened is in the events, and a step that is cancelled was cancelled by us.
_ORDINARY = ("COMPLETED", "RUNNING", "PENDING", "COMPLETING", "CANCELLED", "FAILED")
_MEANINGS = {
    "OUT_OF_MEMORY": "the kernel killed it because the memory of the job was used up",
    "NODE_FAIL": "Slurm lost a node",
    "TIMEOUT": "the job reached its time limit",
    "PREEMPTED": "a job with more right took the nodes",
    "BOOT_FAIL": "a node did not boot",
    "DEADLINE": "the deadline of the job passed",
}

_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")

Ask = Callable[["list[str]"], str]


@dataclass(frozen=True)
class SlurmWord:
    """One record: `step` is the name of a step of the run, "" for the job; `at` is its end (seconds since the epoch).

    `meaning` finishes a sentence with "since ..."; it is "" for what says nothing by itself. One of a `node` is of when
    something happened to it.
    """

    step: str
    at: float | None
    text: str
    meaning: str
    node: str = ""


def ask_slurm(job: str, ask: Ask = lambda words: run(words, timeout=_TIMEOUT)) -> tuple[SlurmWord, ...]:
    """What sacct says of a job and its steps, else what scontrol says of the job; nothing where neither answers."""
    try:
        return tuple(map(_of_record, parse.past_steps(ask(argv.sacct_steps(job)))))
    except MissingError:
        return ()
    except SlurmError:
        pass
    try:
        return _of_job(job, parse.fields(ask(argv.scontrol_show("job", job))))
    except (MissingError, SlurmError):
        return ()


def ask_nodes(names: Sequence[str], ask: Ask = lambda words: run(words, timeout=_TIMEOUT)) -> tuple[SlurmWord, ...]:
    """What scontrol says of nodes by now: which are down, and since when the slurmd of each runs."""
    if not names:
        return ()
    try:
        shown = parse.nodes(ask(argv.scontrol_show("node", ",".join(names))))
    except (MissingError, SlurmError):
        return ()
    return tuple(word for node in shown for word in _of_node(node))


def _of_node(node: parse.Node) -> Iterator[SlurmWord]:
    if states.node_is_down(node.state):
        why = states.why_down(node)
        meaning = f"{node.name} is down" + (f" ({why})" if why else "")
        text = f"node {node.name} is {node.state}, reason {node.reason or 'None'}"
        yield SlurmWord("", _seconds(node.since), text, meaning, node.name)
    began = _seconds(node.began)
    if began is not None:
        text = f"slurmd of {node.name} was started"
        yield SlurmWord("", began, text, f"{text} anew", node.name)


def _seconds(text: str) -> float | None:
    """The time that a text has in it, as Slurm writes it on a machine whose time zone is this one's."""
    found = _STAMP.search(text)
    return time.mktime(time.strptime(found[0], "%Y-%m-%dT%H:%M:%S")) if found else None


def _of_record(record: parse.PastStep) -> SlurmWord:
    who = f"step {record.id} ({record.name})" if "." in record.id else f"job {record.id}"
    where = f" on {record.nodes}" if record.nodes else ""
    text = f"{who} is {record.state}{where}, exit code {record.exit_code}"
    return SlurmWord(record.name if "." in record.id else "", record.end, text, _MEANINGS.get(record.state, ""))


def _of_job(job: str, shown: dict[str, str]) -> tuple[SlurmWord, ...]:
    state = shown.get("JobState", "")
    if not state or state in _ORDINARY:
        return ()
    text = f"job {job} is {state}, exit code {shown.get('ExitCode', '?')}, reason {shown.get('Reason', 'None')}"
    return (SlurmWord("", None, text, _MEANINGS.get(state, "")),)
