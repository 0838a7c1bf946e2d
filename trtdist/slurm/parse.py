"""Understands what Slurm's programs print for the command lines of `argv`. Pure. Standard library, Python 3.9."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace

__all__ = [
    "Job",
    "Node",
    "Partition",
    "PastStep",
    "Step",
    "accounts",
    "alloc_nodes",
    "config",
    "fields",
    "first_killed",
    "folders",
    "job_id",
    "jobs",
    "mpi_types",
    "node_states",
    "nodes",
    "partitions",
    "past_jobs",
    "past_steps",
    "seconds",
    "steps",
]

_KEY = re.compile(r"(?:^|(?<=\s))([A-Za-z][A-Za-z0-9_]*(?:[/:][A-Za-z]+)*)=")
_NOTHING = ("", "(null)", "N/A", "n/a", "Unknown", "NONE", "None")
_GPUS = re.compile(r"gpu(?::(?P<type>[^:,(]+))?:(?P<count>\d+)")
_DURATION = re.compile(r"(?:(?P<days>\d+)-)?(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+)")
_TYPE = re.compile(r"[a-z][a-z0-9_]*")
_ENDED = re.compile(
    r"^srun: error: \S+: tasks? (?P<numbers>[\d,-]+): "
    r"(?:(?P<killed>Killed|Out Of Memory)|Exited with exit code (?P<code>\d+))\s*$",
    re.MULTILINE,
)
_MOST_TASKS = 1 << 16
_COMPLAINT = re.compile(r"^\w+: ")
_REASON = re.compile(r"(?P<reason>.*?)\s*(?:\[(?P<by>[^\s@\]]*)@(?P<since>[^\s\]]*)\])?")


@dataclass(frozen=True)
class Job:
    """One line of `squeue`. `reason` is "" without one; `start` (estimated while pending) and `end` are seconds since
    the epoch, None when Slurm does not know; `nodes` is a host list."""

    id: str
    state: str
    reason: str
    start: float | None
    end: float | None
    nodes: str
    user: str
    name: str


@dataclass(frozen=True)
class Step:
    """One line of `squeue --steps`: `id` is `7.0` or `7.batch`, `nodes` a host list."""

    id: str
    nodes: str
    name: str


@dataclass(frozen=True)
class PastStep:
    """One line of `sacct`: a job (`7`) or a step (`7.0`, `7.batch`), `exit_code` as CODE:SIGNAL, `end` in seconds
    since the epoch, None while it runs."""

    id: str
    state: str
    exit_code: str
    end: float | None
    nodes: str
    name: str


@dataclass(frozen=True)
class Partition:
    """Nodes of one kind in a partition: `limit` in seconds (None for none), memory in MiB, the type of GPU "" if it
    has none."""

    name: str
    up: bool
    limit: float | None
    nodes: int
    cpus: int
    memory: int
    gpus: int
    gpu_type: str


@dataclass(frozen=True)
class Node:
    """One line of `scontrol show node`: `state` with its flags (`DOWN+DRAIN`), the `reason` that somebody, or Slurm
    itself, gave for it, who did (`by`) and when (`since`), and when its slurmd was started (`began`), times as Slurm
    writes them. What there is not is ""."""

    name: str
    state: str
    reason: str
    by: str
    since: str
    began: str


def jobs(text: str) -> list[Job]:
    """Jobs as `argv.squeue_jobs` lists them."""
    found = []
    for parts in _rows(text, 8):
        identity, state, reason, start, end, nodes, user, name = parts
        found.append(Job(identity, state, _given(reason), _time(start), _time(end), _given(nodes), user, name))
    return found


def folders(text: str) -> list[tuple[str, str]]:
    """Jobs with their folders as `argv.squeue_folders` lists them."""
    return [(job, folder) for job, folder in _rows(text, 2)]


def past_jobs(text: str) -> list[Job]:
    """Jobs as `argv.sacct_jobs` lists them, with states as squeue writes them: sacct says who cancelled a job."""
    return [replace(job, state=job.state.partition(" ")[0]) for job in jobs(text)]


def steps(text: str) -> list[Step]:
    """Steps as `argv.squeue_steps` lists them."""
    return [Step(identity, _given(nodes), name) for identity, nodes, name in _rows(text, 3)]


def past_steps(text: str) -> list[PastStep]:
    """Jobs and steps as `argv.sacct_steps` lists them; of a state the first word, since sacct says who cancelled."""
    found = []
    for identity, state, code, end, nodes, name in _rows(text, 6):
        found.append(PastStep(identity, state.partition(" ")[0], code, _time(end), _given(nodes), name))
    return found


def partitions(text: str) -> list[Partition]:
    """Partitions as `argv.sinfo` lists them."""
    found = []
    for name, up, limit, nodes, cpus, memory, gres in _rows(text, 7):
        gpus = _GPUS.search(gres)
        count, kind = (int(gpus["count"]), gpus["type"] or "") if gpus else (0, "")
        cores, mib = int(cpus.rstrip("+")), int(memory.rstrip("+"))
        found.append(Partition(name, up == "up", seconds(limit), int(nodes), cores, mib, count, kind))
    return found


def alloc_nodes(line: str) -> str:
    """The hosts from which jobs may be submitted to a partition (a host list), from one line of `scontrol show
    partition`; "" when any may."""
    found = fields(line).get("AllocNodes", "")
    return "" if found in ("ALL", *_NOTHING) else found


def node_states(text: str) -> list[tuple[str, str]]:
    """Nodes with their states as `argv.sinfo_nodes` lists them, each once; a `*` for one that does not answer."""
    return list(dict.fromkeys((name, state) for name, state in _rows(text, 2)))


def nodes(text: str) -> list[Node]:
    """Nodes as `argv.scontrol_show` shows them."""
    return [_node(shown) for shown in map(fields, text.splitlines()) if "NodeName" in shown]


def _node(shown: dict[str, str]) -> Node:
    given = _REASON.fullmatch(shown.get("Reason", ""))
    why, by, since = given.groups("") if given else (shown["Reason"], "", "")
    return Node(shown["NodeName"], shown.get("State", ""), _given(why), by, since, shown.get("SlurmdStartTime", ""))


def fields(line: str) -> dict[str, str]:
    """The `Key=Value` words of one line of `scontrol --oneliner show`; values may hold blanks and equal signs.

    What a user named like a key (a job called "x Reason=y") is taken for one: of two, the first counts.
    """
    found: dict[str, str] = {}
    matches = list(_KEY.finditer(line))
    ends = [match.start() for match in matches[1:]] + [len(line)]
    for match, end in zip(matches, ends):
        found.setdefault(match[1], line[match.end() : end].strip())
    return found


def accounts(text: str) -> list[str]:
    """Accounts as `argv.sacctmgr_accounts` lists them, each once, the default first."""
    rows = [(default, account) for default, account in _rows(text, 2) if account]
    defaults = [account for default, account in rows if account == default]
    return list(dict.fromkeys([*defaults, *(account for _, account in rows)]))


def config(text: str) -> dict[str, str]:
    """The settings that `scontrol show config` prints, units included ("30 sec")."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def mpi_types(text: str) -> list[str]:
    """The MPI types that `srun --mpi=list` prints; releases differ in the words around them and in the stream."""
    found: list[str] = []
    for line in text.splitlines():
        words = _COMPLAINT.sub("", line.strip())
        if words.startswith("specific"):
            words = words.partition(":")[2]
        elif " " in words:
            continue
        found += [word for word in re.split(r"[\s,]+", words) if _TYPE.fullmatch(word)]
    return list(dict.fromkeys(found))


def job_id(text: str) -> str:
    """The id that `sbatch --parsable` prints, alone or before `;cluster`; ValueError when there is none."""
    found = text.strip().split(";")[0]
    if not found.isdigit():
        raise ValueError(f"sbatch printed {text.strip()!r} instead of a job id")
    return found


def first_killed(text: str, followed: Container[int]) -> list[int]:
    """The numbers of the tasks that srun first says were killed (`srun: error: n2: tasks 4-5: Killed`).

    When one task ends badly srun has the others killed, and tells of these later: none was killed first when a task had
    ended by itself before, with an exit code that is not one of those that follow from the end of another.
    """
    for match in _ENDED.finditer(text):
        if match["killed"]:
            return _numbers(match["numbers"])
        if int(match["code"]) not in followed:
            return []
    return []


def _numbers(text: str) -> list[int]:
    ends = [part.split("-") for part in text.split(",") if part[:1].isdigit() and part[-1:].isdigit()]
    return [number for part in ends for number in range(int(part[0]), int(part[-1]) + 1)[:_MOST_TASKS]]


def seconds(text: str) -> float | None:
    """A time limit of Slurm's (`1-02:03:04`, `10:00`); None for `infinite`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, rest = (int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    """Lines of so many columns, the last of which may hold the separator."""
    for line in text.splitlines():
        parts = line.split("|", columns - 1)
        if len(parts) == columns:
            yield parts


def _given(text: str) -> str:
    return "" if text in _NOTHING else text


def _time(text: str) -> float | None:
    return float(text) if text.isdigit() else None
