"""Which of all that went wrong came first. Pure: the same facts, the same cause.

The first death is the supervisor's to name; its reason is sought in what the logs say. A reason counts when it was
written by that task, or by another rank of its step, shortly before the death. Where another rank wrote it earlier,
that rank is the one that failed first: an engine ends by its leader, whichever rank the trouble began with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trtdist.observe.ends import End
from trtdist.observe.scan import Hit
from trtdist.observe.signatures import Signature
from trtdist.observe.slurm_words import SlurmWord
from trtdist.observe.state import Failure

__all__ = ["Cause", "Facts", "decide"]

# How long before a death its reason may have been written (seconds), and by how much the index of a log is early.
_BEFORE, _EARLY = 300.0, 1.0
_LAUNCH = "launch."
# What Slurm prints of the end of a job.
_OF_JOBS = ("slurm-node-failure", "slurm-preempted", "slurm-time-limit")
# How long before or after a death something must have happened to a node to have to do with it (seconds): Slurm calls
# one down SlurmdTimeout after it was last heard, 300 s unless set.
_NODE = 600.0


@dataclass(frozen=True)
class Facts:
    """What is known of a run: `failure` is who died first by the supervisor's account, None when nothing failed.

    `steps` has the step of each log, `started` when each task was last started, `hosts` where; `restarts` is how often
    a step was started once more.
    """

    state: str
    detail: str
    failure: Failure | None
    ends: Sequence[End]
    hits: Sequence[Hit]
    words: Sequence[SlurmWord]
    steps: Mapping[str, str]
    started: Mapping[str, float]
    hosts: Mapping[str, str]
    restarts: int = 0


@dataclass(frozen=True)
class Cause:
    """The first cause in one sentence. `name` is the task, step or service that it began with, "" for none; `hit` is
    the line that says why; `certain` tells a known reason from what is merely the first death."""

    sentence: str
    name: str = ""
    at: float | None = None
    certain: bool = False
    signature: Signature | None = None
    hit: Hit | None = None


def decide(facts: Facts) -> Cause:
    """The first cause of the end of a run, or that there is none."""
    failure = facts.failure
    if failure is None:
        return Cause(_nothing(facts))
    hit = _reason(facts, failure)
    if hit is not None:
        return _because(facts, failure, hit)
    word = _by_slurm(facts, failure)
    if word is not None:
        return Cause(f"{_ended(facts, failure)} since {word.meaning}", failure.name, failure.time, True)
    if not failure.name:
        return Cause(failure.reason, certain=True)
    unexplained = ", and nothing in its log says why" if _silent(failure) else ""
    return Cause(_ended(facts, failure) + unexplained, failure.name, failure.time)


def _nothing(facts: Facts) -> str:
    if facts.state in ("STOPPED", "INTERRUPTED"):
        # What Slurm did to a job is a sentence of its own.
        ended = facts.detail if facts.detail.startswith("job ") else f"the run was {facts.detail or 'stopped'}"
        return f"{ended}; until then it had survived {_deaths(facts)}" if facts.restarts else f"Nothing failed: {ended}"
    if facts.detail:
        return f"the run goes on: it is {facts.state}, {facts.detail}"
    if facts.restarts:
        return f"the run goes on: it is {facts.state}, and has survived {_deaths(facts)}"
    return f"Nothing has failed: the run is {facts.state}"


def _deaths(facts: Facts) -> str:
    return (
        "a death, which a restart followed"
        if facts.restarts == 1
        else f"{facts.restarts} deaths, each followed by a restart"
    )


def _silent(failure: Failure) -> bool:
    """Whether a death tells nothing by itself: killed, or ended with a code."""
    return failure.signal is not None or failure.code is not None or "vanished" in failure.reason


def _reason(facts: Facts, failure: Failure) -> Hit | None:
    """The line that says why: the first certain one, else an error in the words of who died."""
    near = [hit for hit in facts.hits if _relevant(facts, failure, hit)]
    own = [hit for hit in near if hit.log == failure.name]
    others = [hit for hit in near if hit.log != failure.name]
    first_own, first_other = _first(own, "cause"), _first(others, "cause")
    if first_own is not None and (first_other is None or not _earlier(first_other, first_own)):
        return first_own
    if first_other is not None:
        return first_other
    errors = [hit for hit in own if hit.signature.kind == "error"]
    if errors:
        return errors[-1]
    elsewhere = _first([hit for hit in others if not hit.log.startswith(_LAUNCH)], "error")
    # Of a step that ended as a whole, what started it may be all there is.
    return elsewhere or _first([hit for hit in others if hit.log == _LAUNCH + failure.name], "error")


def _relevant(facts: Facts, failure: Failure, hit: Hit) -> bool:
    """Whether a line may tell why: of the same step, of the task's last start, shortly before the death."""
    if failure.name and facts.steps.get(hit.log) != failure.step:
        return False
    if hit.at is None or failure.time is None:
        return True
    began = facts.started.get(hit.log, 0.0) - _EARLY
    return max(began, failure.time - _BEFORE) <= hit.at <= failure.time + _EARLY


def _first(hits: Sequence[Hit], kind: str) -> Hit | None:
    """The first of a kind; what has no time, as what srun prints, comes after what has one."""
    chosen = [hit for hit in hits if hit.signature.kind == kind]
    return min(chosen, key=lambda hit: (hit.at is None, hit.at or 0.0, hit.line)) if chosen else None


def _earlier(one: Hit, other: Hit) -> bool:
    """Whether a line surely was written before another."""
    return one.at is not None and other.at is not None and one.at + _EARLY < other.at


def _because(facts: Facts, failure: Failure, hit: Hit) -> Cause:
    signature = hit.signature
    certain = signature.kind == "cause"
    why = f"since {signature.meaning}" if certain else f"and says: {hit.text}"
    began_with_it = hit.log == failure.name or hit.log.startswith(_LAUNCH) or not failure.name
    if began_with_it:
        # What Slurm did to a job is a sentence of its own, which may name the nodes.
        told = not failure.name and failure.reason.startswith("job ") and signature.code in _OF_JOBS
        sentence = failure.reason if told else f"{_ended(facts, failure)} {why}"
        return Cause(sentence, failure.name or hit.log, failure.time or hit.at, certain, signature, hit)
    sentence = f"{_placed(facts, hit.log)} failed first, {why}; then {_ended(facts, failure)}"
    return Cause(sentence, hit.log, hit.at, certain, signature, hit)


def _by_slurm(facts: Facts, failure: Failure) -> SlurmWord | None:
    """What Slurm recorded of the step of who died first, of the job, or of a node where it ran; this rather than a word
    that names no node."""
    words = [word for word in facts.words if word.meaning and word.step in ("", failure.step)]
    of_nodes = [word for word in words if word.node and _concerns(facts, failure, word)]
    return next(iter(of_nodes + [word for word in words if not word.node]), None)


def _concerns(facts: Facts, failure: Failure, word: SlurmWord) -> bool:
    """Whether what happened to a node may be why: the first one ran there, at about that time."""
    if word.at is None or failure.time is None or abs(word.at - failure.time) > _NODE:
        return False
    ran = [name for name in facts.hosts if failure.name in (name, facts.steps.get(name))]
    began = [facts.started.get(name, 0.0) for name in ran if _short(facts.hosts[name]) == word.node]
    # A slurmd that was started before the task is the one that started it.
    return bool(began) and word.at > max(began)


def _short(host: str) -> str:
    return host.split(".")[0]


def _ended(facts: Facts, failure: Failure) -> str:
    """How the first one ended, with its node."""
    if not failure.name:
        return failure.reason
    end = next((end for end in facts.ends if end.kind == "end" and end.name == failure.name and not end.asked), None)
    if end is None:
        return failure.reason
    return f"{_placed(facts, failure.name)} {end.how}"


def _placed(facts: Facts, name: str) -> str:
    host = facts.hosts.get(name, "")
    return f"{name} on {host}" if host else name
