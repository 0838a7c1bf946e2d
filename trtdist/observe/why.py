"""Gathers all that tells why a run ended as it did, and orders it by time: deaths, lines of logs, Slurm's records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trtdist.observe.cause import Cause, Facts, decide
from trtdist.observe.ends import Ends, read_ends
from trtdist.observe.scan import Found, Hit, scan
from trtdist.observe.signatures import Signature, known
from trtdist.observe.slurm_words import SlurmWord, ask_nodes, ask_slurm
from trtdist.observe.snapshot import RunReader, Snapshot
from trtdist.plan import Plan
from trtdist.rundir import RunDir

__all__ = ["JSON_VERSION", "Evidence", "Report", "explain", "to_json"]

JSON_VERSION = 1


@dataclass(frozen=True)
class Evidence:
    """One thing that happened. `kind` is `end`, `stall`, `line` or `slurm`; `at` is in seconds since the epoch, None
    when it is not known; `file` is relative to the run directory, "" for Slurm's records, `line` counts from 1; `code`
    is that of a signature, and `count` how many lines of that log have it."""

    at: float | None
    kind: str
    name: str
    text: str
    file: str
    line: int
    code: str = ""
    count: int = 1


@dataclass(frozen=True)
class Report:
    """Why a run ended as it did: the first cause, all that happened in order, and what may have to do with it."""

    look: Snapshot
    cause: Cause
    evidence: tuple[Evidence, ...]
    suspects: tuple[Evidence, ...]
    stacks: tuple[str, ...]


def explain(
    run: RunDir,
    ask: Callable[[str], Iterable[SlurmWord]] = ask_slurm,
    ask_about: Callable[[Sequence[str]], Iterable[SlurmWord]] = ask_nodes,
) -> Report:
    """Look at everything that a run left behind. InputError when it has no plan that can be read."""
    look = RunReader(run).look()
    ends = read_ends(run)
    found = scan(sorted(run.logs.glob("*.log")), known())
    words = tuple(ask(look.job_id)) if look.job_id else ()
    if look.job_id and look.status.failure is not None:
        words += tuple(ask_about(sorted({host.split(".")[0] for _, host in ends.started.values()})))
    cause = decide(_facts(look, ends, found, words))
    suspects = tuple(_of_hit(hit, found) for hit in _firsts(found.hits) if hit.signature.kind == "suspect")
    return Report(look, cause, _evidence(ends, found, words, cause), suspects, _stacks(run, cause.name))


def to_json(report: Report) -> dict[str, Any]:
    """The report as docs/why.md has it."""
    look, cause = report.look, report.cause
    return {
        "version": JSON_VERSION,
        "run_id": look.run.run_id,
        "run_dir": str(look.run.path),
        "state": look.status.state,
        "detail": look.status.detail,
        "cause": {
            "sentence": cause.sentence,
            "name": cause.name or None,
            "time": cause.at,
            "certain": cause.certain,
            **_meaning(cause.signature),
            "file": f"logs/{cause.hit.log}.log" if cause.hit else None,
            "line": cause.hit.line if cause.hit else None,
        },
        "evidence": [_dumped(each) for each in report.evidence],
        "suspects": [{**_dumped(each), **_meaning(known()[each.code])} for each in report.suspects],
        "stacks": list(report.stacks),
    }


def _meaning(signature: Signature | None) -> dict[str, Any]:
    if signature is None:
        return {"code": None, "meaning": None, "remedy": None, "source": None}
    return {name: getattr(signature, name) for name in ("code", "meaning", "remedy", "source")}


def _dumped(evidence: Evidence) -> dict[str, Any]:
    found = {name: value for name, value in asdict(evidence).items() if name != "at"}
    return {"time": evidence.at, **found, "file": evidence.file or None, "code": evidence.code or None}


def _facts(look: Snapshot, ends: Ends, found: Found, words: tuple[SlurmWord, ...]) -> Facts:
    return Facts(
        state=look.status.state,
        detail=look.status.detail,
        failure=look.status.failure,
        ends=ends.ends,
        hits=found.hits,
        words=words,
        steps=_steps(look.plan),
        started={name: at for name, (at, _) in ends.started.items()},
        hosts={name: host for name, (_, host) in ends.started.items()},
        restarts=ends.restarts,
    )


def _steps(plan: Plan) -> dict[str, str]:
    """The step of each log."""
    found = {name: step.name for step in plan.steps for name in (*plan.tasks(step), f"launch.{step.name}")}
    return {**found, "supervisor": "supervisor"}


def _firsts(hits: Iterable[Hit]) -> list[Hit]:
    """The first hit of each signature in each log."""
    return list({(hit.log, hit.signature.code): hit for hit in reversed(tuple(hits))}.values())[::-1]


def _evidence(ends: Ends, found: Found, words: Iterable[SlurmWord], cause: Cause) -> tuple[Evidence, ...]:
    """Ends, lines and records in the order of time; what has no time comes last."""
    hits = [hit for hit in _firsts(found.hits) if hit.signature.kind != "suspect"]
    hits += [cause.hit] if cause.hit is not None and cause.hit not in hits else []
    told = [_of_hit(hit, found) for hit in hits]
    told += [Evidence(end.at, end.kind, end.name, end.how, end.file, end.line) for end in ends.ends if not end.asked]
    told += [
        Evidence(word.at, "slurm", word.node or word.step or "job", word.text, "", 0) for word in _telling(words, cause)
    ]
    return tuple(sorted(told, key=lambda each: (each.at is None, each.at or 0.0)))


def _telling(words: Iterable[SlurmWord], cause: Cause) -> Iterator[SlurmWord]:
    """The records without those of nodes that have nothing to do with it: a slurmd is always started some time."""
    for word in words:
        if not word.node or word.meaning in cause.sentence or word.meaning.startswith(f"{word.node} is down"):
            yield word


def _of_hit(hit: Hit, found: Found) -> Evidence:
    code = hit.signature.code
    return Evidence(
        hit.at, "line", hit.log, hit.text, f"logs/{hit.log}.log", hit.line, code, found.counts[hit.log, code]
    )


def _stacks(run: RunDir, name: str | None) -> tuple[str, ...]:
    """Files with what the programs of a stalled run were doing, relative to the run directory."""
    files = sorted(run.path.glob("stacks/*.txt"), key=lambda path: (path.stem != name, path.name))
    return tuple(f"stacks/{path.name}" for path in files)
