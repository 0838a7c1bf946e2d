"""Typed events: what happened in a run, told by those who know. Standard library, Python 3.9.

Each writer appends to a file of its own under `events/`, one JSON object a line: `{"time": ..., "writer": ...,
"life": ..., "type": "task_exited", ...}`. A reader polls (other machines' writes raise no inotify event) and takes
whole lines.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO, Union

__all__ = [
    "RUNGS",
    "CanaryFailed",
    "CanaryPassed",
    "ControlRefused",
    "ControlTaken",
    "Drained",
    "EndpointUp",
    "EngineSilent",
    "Event",
    "EventReader",
    "EventWriter",
    "HandOverPlanned",
    "Ready",
    "Record",
    "Restarting",
    "RunState",
    "Rung",
    "Stalled",
    "StepExited",
    "StepStarted",
    "Successor",
    "SupervisorStarted",
    "TaskExited",
    "TaskRefused",
    "TaskSeen",
    "TaskStarted",
    "TaskUnwell",
    "WrittenOff",
    "decode",
]

RUNGS = ("started", "process", "engine", "registered", "answering", "canary")


@dataclass(frozen=True)
class RunState:
    """The run went into `state`: STARTING, READY, STOPPING, STOPPED or FAILED (by the supervisor)."""

    state: str
    detail: str = ""


@dataclass(frozen=True)
class SupervisorStarted:
    """The supervisor runs on `host`; `pid` and `started` (clock ticks) identify it (its first event).

    `slurm_job` is the id of the job that it runs in, "" without Slurm.
    """

    host: str
    pid: int
    started: int
    slurm_job: str = ""


@dataclass(frozen=True)
class StepStarted:
    """A step file was started; `pid` and `started` (clock ticks) identify its first process, and `life` is the name of
    what began with it (by the supervisor)."""

    step: str
    pid: int
    started: int
    life: str = ""


@dataclass(frozen=True)
class StepExited:
    """The first process of a step ended, with an exit code or a signal number (by the supervisor)."""

    step: str
    code: int | None
    signal: int | None


@dataclass(frozen=True)
class EndpointUp:
    """A head service passed its health check at `url` (by the supervisor)."""

    service: str
    url: str


@dataclass(frozen=True)
class ControlTaken:
    """The supervisor took a request from `control/`; `server` is whom it is about, "" for all."""

    request: str
    action: str
    server: str = ""


@dataclass(frozen=True)
class ControlRefused:
    """A request from `control/` is not followed; `reason` is a sentence (by the supervisor)."""

    request: str
    reason: str


@dataclass(frozen=True)
class Restarting:
    """A step that died is started again, for the `attempt`th time in a row of at most `most`, after `pause` seconds;
    `reason` is a sentence (by the supervisor)."""

    step: str
    attempt: int
    most: int
    reason: str
    pause: float = 0.0


@dataclass(frozen=True)
class WrittenOff:
    """A step died and the run goes on without it; `reason` is a sentence (by the supervisor)."""

    step: str
    reason: str


@dataclass(frozen=True)
class Drained:
    """A server has left as it was asked to; `reason` is a sentence (by the supervisor)."""

    step: str
    reason: str


@dataclass(frozen=True)
class TaskStarted:
    """A task runs (by its shim). `name` is `gen.0.1` for a rank, else the step's name; `server` is "" for others.

    `pid` and `started` identify the program, `shim_pid` and `shim_started` the shim that wraps it. `slurm_step` is the
    step of Slurm's that it belongs to (`7.2`), "" without Slurm.
    """

    step: str
    name: str
    server: str
    rank: int
    host: str
    pid: int
    started: int
    shim_pid: int
    shim_started: int
    slurm_step: str = ""


@dataclass(frozen=True)
class TaskExited:
    """A task ended, with an exit code or a signal number (by its shim).

    `orphan_of` is the process id of who had started it, where that had ended before; 0 otherwise.
    """

    step: str
    name: str
    pid: int
    code: int | None
    signal: int | None
    orphan_of: int = 0


@dataclass(frozen=True)
class TaskRefused:
    """A task does not run, since it cannot where it is; `reason` finishes the sentence "gen.0.1 ..." (by its shim)."""

    step: str
    name: str
    reason: str


@dataclass(frozen=True)
class TaskSeen:
    """What a task was seen to do when the supervisor asked: `doing` finishes the sentence "gen.0.1 ..." (beside it).

    `cpu` is how much of a core it used, `stopped` whether a signal keeps it from running.
    """

    step: str
    name: str
    working: bool
    doing: str
    cpu: float = 0.0
    stopped: bool = False


@dataclass(frozen=True)
class Stalled:
    """A server makes no progress since `seconds`; `task` is the rank to look at, `how` and `doing` finish sentences
    about it (by the supervisor)."""

    server: str
    task: str
    seconds: float
    how: str
    doing: str


@dataclass(frozen=True)
class HandOverPlanned:
    """When, in seconds since the epoch, another run will be asked for that takes over; the last one counts (by the
    supervisor)."""

    at: float


@dataclass(frozen=True)
class Successor:
    """What becomes of the run that is to take over, and of its job: `state` is asked, ready, lost or called off;
    `reason` is a sentence, "" where there is nothing to explain (by the supervisor)."""

    run: str
    job: str
    state: str
    reason: str = ""


@dataclass(frozen=True)
class EngineSilent:
    """`requests` wait for the engine of a server, and it has given nothing to any for `seconds`; `instance` is the key
    of the server in etcd (by the server)."""

    server: str
    instance: str
    requests: int
    seconds: float


@dataclass(frozen=True)
class TaskUnwell:
    """A task runs, and does not do its work any more; `reason` finishes the sentence "gen.0.0 ..." (by the canary).

    `life` is the name of the life in which it does not, "" where that has none.
    """

    step: str
    name: str
    reason: str
    life: str = ""


@dataclass(frozen=True)
class Rung:
    """A server or service reached a rung of the readiness ladder (one of RUNGS)."""

    name: str
    rung: str
    detail: str = ""


@dataclass(frozen=True)
class CanaryPassed:
    """A prompt crossed the whole path; `context` is "" for a monolithic server; `seconds` from request to end."""

    context: str
    generation: str
    text: str
    seconds: float


@dataclass(frozen=True)
class CanaryFailed:
    """A canary prompt was not answered; `server` is where it was when its time was over, "" when that is not why."""

    context: str
    generation: str
    reason: str
    server: str = ""


@dataclass(frozen=True)
class Ready:
    """Every server took part in an answered canary (by the canary)."""

    canaries: int


Event = Union[
    RunState,
    SupervisorStarted,
    StepStarted,
    StepExited,
    EndpointUp,
    ControlTaken,
    ControlRefused,
    Restarting,
    WrittenOff,
    Drained,
    HandOverPlanned,
    Successor,
    TaskStarted,
    TaskExited,
    TaskRefused,
    TaskSeen,
    Stalled,
    EngineSilent,
    TaskUnwell,
    Rung,
    CanaryPassed,
    CanaryFailed,
    Ready,
]

_TYPES: dict[str, type[Event]] = {
    "run_state": RunState,
    "supervisor_started": SupervisorStarted,
    "step_started": StepStarted,
    "step_exited": StepExited,
    "endpoint_up": EndpointUp,
    "control_taken": ControlTaken,
    "control_refused": ControlRefused,
    "restarting": Restarting,
    "written_off": WrittenOff,
    "drained": Drained,
    "hand_over_planned": HandOverPlanned,
    "successor": Successor,
    "task_started": TaskStarted,
    "task_exited": TaskExited,
    "task_refused": TaskRefused,
    "task_seen": TaskSeen,
    "stalled": Stalled,
    "engine_silent": EngineSilent,
    "task_unwell": TaskUnwell,
    "rung": Rung,
    "canary_passed": CanaryPassed,
    "canary_failed": CanaryFailed,
    "ready": Ready,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
# What JSON may have for a field of each kind; the annotations are text.
_VALUES = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "int | None": (int, type(None)),
}
_FIELDS = {kind: {field.name: _VALUES[str(field.type)] for field in fields(kind)} for kind in _NAMES}


@dataclass(frozen=True)
class Record:
    """An event with who wrote it and when (seconds since the epoch).

    `life` is which life of its step the writer is of, as the supervisor has named it to what it started; "" for others.
    """

    time: float
    writer: str
    event: Event
    life: str = ""


# More bytes than the line of any event has.
_MAX_LINE = 1 << 20


def decode(line: str) -> Record | None:
    """The record of one line; None for what another version may have written, or is none for another reason."""
    try:
        raw = json.loads(line)
        kind = _TYPES[raw["type"]]
        known = {name: raw[name] for name in _FIELDS[kind] if name in raw}
        at, writer, life = float(raw["time"]), raw["writer"], raw.get("life", "")
        whole = all(type(value) in _FIELDS[kind][name] for name, value in known.items())
        whole = whole and isinstance(writer, str) and isinstance(life, str) and math.isfinite(at)
        return Record(at, writer, kind(**known), life) if whole else None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


class EventWriter:
    """Appends events to the file of one writer, also after one of which a full disk took only a part."""

    def __init__(self, path: Path) -> None:
        self._writer = path.stem
        self._life = os.environ.get("TRTDIST_LIFE", "")
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, event: Event) -> Record:
        """Append an event, stamped with the time of now; OSError when the disk is full."""
        record = Record(_now(), self._writer, event, self._life)
        who = {"time": record.time, "writer": record.writer, "life": record.life}
        line = {**who, "type": _NAMES[type(event)], **asdict(event)}
        data = (self._torn() + json.dumps(line) + "\n").encode()
        while data:
            data = data[os.write(self._descriptor, data) :]
        return record

    def _torn(self) -> str:
        """What ends a line that was not written to its end, "" where there is none."""
        size = os.fstat(self._descriptor).st_size
        return "\n" if size and os.pread(self._descriptor, 1, size - 1) != b"\n" else ""

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _now() -> float:
    """The time on the clock of the head node, in seconds since the epoch: events of several nodes have an order."""
    return time.time() - float(os.environ.get("TRTDIST_CLOCK_AHEAD", "0"))


class EventReader:
    """Reads what was added to the files of a folder since the last time; lines that `skip` names are not decoded."""

    def __init__(self, folder: Path, skip: Callable[[bytes], bool] | None = None) -> None:
        self._folder = folder
        self._skip = skip
        self._offsets: dict[str, int] = {}

    def poll(self) -> list[Record]:
        """All new events of all writers, oldest first, those of one writer as it wrote them: clocks may be set back.

        A line still being written waits for the next time.
        """
        found: list[tuple[float, Record]] = []
        for name in self._names():
            latest = -math.inf
            for record in self._tail(name):
                latest = max(latest, record.time)
                found.append((latest, record))
        return [record for _, record in sorted(found, key=lambda each: each[0])]

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._folder) if name.endswith(".jsonl")]
        except FileNotFoundError:
            return []

    def _tail(self, name: str) -> Iterator[Record]:
        path = os.path.join(self._folder, name)
        offset = self._offsets.get(name, 0)
        try:
            if os.stat(path).st_size <= offset:
                return
            with open(path, "rb") as file:
                file.seek(offset)
                for line, length in _lines(file):
                    offset += length
                    record = None if self._skip and self._skip(line) else decode(line.decode("utf-8", "replace"))
                    if record is not None:
                        yield record
        except FileNotFoundError:
            return
        self._offsets[name] = offset


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line that ends, with its length; a longer one than any event has is given as nothing."""
    length = 0
    piece = file.readline(_MAX_LINE)
    while piece:
        length += len(piece)
        if piece.endswith(b"\n"):
            yield (piece if len(piece) == length else b""), length
            length = 0
        piece = file.readline(_MAX_LINE)
