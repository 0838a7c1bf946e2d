"""The runner's place on this machine: a run through `up --local`, or within a small machine that is spoilt."""

from __future__ import annotations

import subprocess
import time
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.steady_load import Load, steady_load
from tests.end_to_end.workplace import Workplace
from tests.faults.inflict import PROCESS_FAULTS
from tests.faults.keeping import kept
from tests.faults.load import STREAMS, load_inside
from tests.faults.machine import Machine, small_machine
from tests.faults.place import Target
from tests.faults.runner import Figures, run
from tests.faults.table import Cell, expected
from tests.supervisor.runs import wait_for
from trtdist.events import EventReader, StepStarted, SupervisorStarted, TaskStarted
from trtdist.process import ProcessId

__all__ = ["run_cell"]


def run_cell(cell: Cell, place: Workplace, keep: Path | None = None, patience: float = 1.0) -> Figures:
    """Run a cell that can be. An AssertionError says what did not hold, and `keep` gets its run directories.

    What must happen in a time may take so many times as long with `patience`, where much else runs beside it.
    """
    with ExitStack() as stack:
        machine = stack.enter_context(small_machine(place)) if cell.process == "machine" else None
        stack.enter_context(kept(cell, place.runs, keep))
        return run(cell, expected(cell), _Here(place, machine, patience), machine)


@dataclass
class _Here:
    workplace: Workplace
    machine: Machine | None
    patience: float
    _front: subprocess.Popen[str] | None = None
    _shared: set[Path] = field(default_factory=set)

    @property
    def front(self) -> subprocess.Popen[str]:
        assert self._front is not None
        return self._front

    def run_dir(self) -> Path | None:
        return next(reversed(self.workplace.runs()), None)

    def bring_up(self, topology: str) -> None:
        self._front = self.workplace.start("up", self.workplace.topology(topology), "--local")

    def wait_for_ready(self) -> None:
        self.workplace.wait_for_state("READY", self.front)

    def start(self, command: str, *arguments: object) -> subprocess.Popen[str]:
        return self.workplace.start(command, *arguments)

    def trtdist(self, command: str, *arguments: object) -> str:
        return self.workplace.trtdist(command, *arguments).stdout

    def load(self) -> AbstractContextManager[Load]:
        return load_inside(self.workplace) if self.machine else steady_load(self.workplace.runs()[-1], STREAMS)

    def remember(self) -> None:
        self._shared = _shared_memory(self.workplace)

    def hit(self, target: Target, fault: str) -> None:
        PROCESS_FAULTS[fault](target.pid)

    def without_supervisor(self, cell: Cell, seconds: float) -> float:
        """The command in front tells that it died; one that hangs is killed after the third Ctrl-C."""
        if cell.fault == "STOP":
            for _ in range(3):
                if self.front.poll() is None:
                    self.front.send_signal(2)
                    wait_for(self._took_signal, 10, "the signal to be taken")
            self.front.communicate(timeout=seconds)
        wait_for(self.workplace.verdict, seconds, "a verdict")
        return time.monotonic()

    def _took_signal(self) -> bool:
        if self.front.poll() is not None:
            return True
        text = Path(f"/proc/{self.front.pid}/status").read_text()
        return not int(text.split("ShdPnd:")[1].split()[0], 16) >> 1 & 1

    def followed_to_its_end(self, seconds: float) -> None:
        output, _ = self.front.communicate(timeout=seconds)
        assert "Traceback" not in output, output

    def no_files(self) -> None:
        self.workplace.nothing_left()

    def nothing_runs(self) -> None:
        wait_for(lambda: not self._alive(), 5 * self.patience, "the end of every process that the events name")
        wait_for(lambda: not self.workplace.processes(), 60, "the end of every process")
        left = [path for path in self._shared if path.exists()]
        assert left == [], f"shared memory is left: {left}"

    def _alive(self) -> list[ProcessId]:
        found: list[ProcessId] = []
        for record in EventReader(self.workplace.runs()[-1] / "events").poll():
            event = record.event
            if isinstance(event, TaskStarted):
                found += [ProcessId(event.pid, event.started), ProcessId(event.shim_pid, event.shim_started)]
            elif isinstance(event, (StepStarted, SupervisorStarted)):
                found.append(ProcessId(event.pid, event.started))
        return [process for process in found if process.alive()]


def _shared_memory(place: Workplace) -> set[Path]:
    """The shared memory that programs of a workplace use now."""
    found: set[Path] = set()
    for pid in place.processes():
        with suppress(OSError):
            words = (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
            found |= {Path(each[5]) for each in words if len(each) == 6 and each[5].startswith("/dev/shm/")}
    return found
