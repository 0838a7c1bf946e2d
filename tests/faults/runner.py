"""Runs one cell of the matrix: brings a deployment to the moment, causes the fault, and holds the run to what must be.

Whatever the fault: the verdict and the cause are the expected ones, in time; every answer is the right one or an error;
no process, file or shared memory of the run is left. Ports, mounts and network namespaces end with the processes.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.steady_load import Load, steady_load
from tests.end_to_end.workplace import Workplace
from tests.faults.asking import open_requests
from tests.faults.inflict import PROCESS_FAULTS
from tests.faults.load import STREAMS, load_inside
from tests.faults.machine import CUT_S, Machine, small_machine
from tests.faults.table import (
    DEADLY,
    DEPLOYMENTS,
    READY_S,
    STOP_S,
    UP_S,
    Cell,
    Expected,
    expected,
    may_be_new,
    of_context,
    waits,
)
from tests.supervisor.runs import wait_for
from trtdist.events import EventReader, Restarting, Rung, RunState, StepStarted, SupervisorStarted, TaskStarted
from trtdist.process import ProcessId
from trtdist.serving.slug import CONTEXT

__all__ = ["Figures", "run_cell"]

ANSWER_LOOK_S = 10.0
PROMPT = "The capital of France is"
TOPOLOGY = """\
name: faults
model: reference/tiny
engine: reference
launch: {launch}
context_servers: {{num_instances: 1, tensor_parallel_size: 2, reference: {{{context}}}{again}}}
generation_servers: {{num_instances: 1, reference: {{{generation}}}{again}}}
services: {{nats: {{{one}}}, etcd: {{{one}}}}}
router: {{{one}}}
timeouts: {{ready: {ready}, stop: {stop}, stall: {stall}}}
"""
# What makes a moment last: servers load, a context server reads, or a generation server answers, for longer.
LASTING = {
    "starts": ("load_delay: 2", "load_delay: 2, step_delay: 0.01"),
    "loaded": ("", "load_delay: 2, step_delay: 0.01"),
    "stops": ("", "step_delay: 0.2"),
}
AGAIN = "restart: {policy: on-failure, backoff: 200ms}"


@dataclass(frozen=True)
class Figures:
    """Seconds from a fault to what is told of it, and to nothing being left; requests answered and failed."""

    told: float
    clean: float
    answered: int = 0
    failed: int = 0


def run_cell(cell: Cell, place: Workplace, keep: Path | None = None, patience: float = 1.0) -> Figures:
    """Run a cell that can be. An AssertionError says what did not hold, and `keep` gets its run directories.

    What must happen in a time may take so many times as long with `patience`, where much else runs beside it.
    """
    with ExitStack() as stack:
        machine = stack.enter_context(small_machine(place)) if cell.process == "machine" else None
        if keep is not None:
            stack.push(lambda failed, *_: _copy_runs(cell, place, keep) if failed else None)
        return _Life(cell, expected(cell), place, machine, patience).run()


def _copy_runs(cell: Cell, place: Workplace, keep: Path) -> None:
    folder = keep / f"{str(cell).replace(', ', '-').replace(' ', '_')}-{place.folder.name}"
    folder.mkdir(parents=True)
    subprocess.run(["cp", "-r", *place.runs(), folder], check=False)


def _shared_memory(place: Workplace) -> set[Path]:
    """The shared memory that programs of a workplace use now."""
    found: set[Path] = set()
    for pid in place.processes():
        with suppress(OSError):
            words = (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
            found |= {Path(each[5]) for each in words if len(each) == 6 and each[5].startswith("/dev/shm/")}
    return found


@dataclass
class _Life:
    cell: Cell
    want: Expected
    place: Workplace
    machine: Machine | None
    patience: float
    front: subprocess.Popen[str] | None = None
    shared: set[Path] = field(default_factory=set)

    @property
    def _seconds(self) -> float:
        return self.want.seconds * self.patience

    def run(self) -> Figures:
        self.front = self.place.start("up", self._topology(), "--local")
        self._wait_for_moment()
        with self._load() as load:
            known = load.answers() if load else set()
            asking = self._hold_the_stop_open() if self.cell.moment == "stops" else None
            self.shared = _shared_memory(self.place)
            began = time.monotonic()
            self._inflict()
            told = self._outcome(began)
        self._answers_are_right(load, known)
        if asking is not None:
            asking.communicate(timeout=60)
        ended = self._end(began)
        failed = len(load.failed()) if load else 0
        return Figures(told, ended, len(load.outcomes) - failed if load else 0, failed)

    def _topology(self) -> Path:
        launch, again = DEPLOYMENTS[self.cell.deployment]
        context, generation = LASTING.get(self.cell.moment, ("", "step_delay: 0.01"))
        text = TOPOLOGY.format(
            launch=launch,
            again=f", {AGAIN}" if again else "",
            one=AGAIN if again else "",
            context="prefill_delay: 5" if self._holds_context else context,
            generation=generation,
            ready=READY_S if self.want.outcome == "TIMEOUT" else UP_S,
            stop=STOP_S,
            stall=10 if waits(self.cell) else 300,
        )
        return self.place.topology(text)

    def _wait_for_moment(self) -> None:
        assert self.front is not None
        if self.cell.moment in ("ready", "serves", "stops"):
            self.place.wait_for_state("READY", self.front)
            return
        word = '"rung": "engine"' if self.cell.moment == "loaded" else ""
        there = self._pid if not word else (lambda: self.place.told(word))
        wait_for(lambda: self.place.runs() and there(), UP_S, f"the moment: {self.place.fronts}")

    def _pid(self) -> int | None:
        """The process to hit, None while there is none."""
        kind, name = SupervisorStarted, self.cell.process
        if name in ("supervisor", "machine"):
            return next((event.pid for event in self.place.events(kind)), None)
        if name == "launcher":
            launch, _ = DEPLOYMENTS[self.cell.deployment]
            step = "workers" if launch == "mpi_world" else "ctx.0"
            return next((event.pid for event in self.place.events(StepStarted) if event.step == step), None)
        task = name.removeprefix("shim of ")
        found = [event for event in self.place.events(TaskStarted) if event.name == task]
        if not found:
            return None
        return int(found[-1].shim_pid if name != task else found[-1].pid)

    @contextmanager
    def _load(self) -> Iterator[Load | None]:
        if self.cell.moment != "serves":
            yield None
            return
        run = self.place.runs()[-1]
        with load_inside(self.place) if self.machine else steady_load(run, STREAMS) as load:
            yield load

    @property
    def _holds_context(self) -> bool:
        return self.cell.moment == "stops" and of_context(self.cell)

    def _hold_the_stop_open(self) -> subprocess.Popen[str]:
        """Ask for a long answer, then for the end of the run, which waits for the answer."""
        asking = self.place.start("client", "--prompt", PROMPT, "--max-tokens", 25)
        assert asking.stdout is not None
        if self._holds_context:
            wait_for(lambda: open_requests(self.place.runs()[-1], CONTEXT), UP_S, "a request in the context server")
        else:
            asking.stdout.read(1)
        self.place.start("down")
        wait_for(lambda: self.place.told('"state": "STOPPING"'), 20, "STOPPING")
        return asking

    def _inflict(self) -> None:
        if self.machine is not None:
            self.machine.inflict(self.cell.fault)
            return
        pid = wait_for(self._pid, UP_S, f"a process {self.cell.process}")
        PROCESS_FAULTS[self.cell.fault](pid)

    def _outcome(self, began: float) -> float:
        """Wait for what must come of the fault; seconds until it was told."""
        if self.want.instead and self.want.outcome != "READY":
            self._find_out(began)
        if self.machine is not None and self.want.outcome != "FAILED":
            time.sleep(CUT_S)
            self.machine.mend(self.cell.fault)
        if self.want.outcome == "READY":
            self._goes_on()
        elif self.want.outcome == "AGAIN":
            wait_for(lambda: self._ready_again() or self._verdict(), self._seconds, "READY again")
            assert not self._verdict(), self._verdict()
            reason = self.place.events(Restarting)[0].reason
            assert reason.split()[0] in self.want.causes, reason
        elif self.want.outcome == "INTERRUPTED":
            self._interrupt()
        else:
            self._is_told()
        if self.cell.fault in DEADLY and may_be_new(self.cell) and "AGAIN" in expected(self.cell).instead:
            assert (self._was_up() > 0) == (self.want.outcome == "AGAIN"), "started again, though never healthy"
        return time.monotonic() - began

    def _find_out(self, began: float) -> None:
        """See which of several outcomes it is; the one that is wanted must come in its time."""
        came = wait_for(self._what_came, UP_S * self.patience, "a verdict or READY")
        if came in self.want.instead:
            self.want = replace(self.want, outcome=came, seconds=UP_S)
        else:
            assert time.monotonic() - began < self._seconds, f"{came} came late"

    def _what_came(self) -> str:
        if self._verdict() or (self.want.outcome == "FAILED" and self._failed()):
            return str(self._verdict().get("state", "FAILED"))
        if not self._is_ready():
            return ""
        return "AGAIN" if "AGAIN" in self.want.instead and self.place.events(Restarting) else "READY"

    def _failed(self) -> bool:
        # On a full disk, the verdict alone has room.
        return self.place.told('"state": "FAILED"') or bool(self._verdict())

    def _is_ready(self) -> bool:
        return self.place.told('"state": "READY"')

    def _was_up(self) -> int:
        """How often the service that is hit was told to answer."""
        name = self.cell.process.removeprefix("shim of ")
        return len([event for event in self.place.events(Rung) if (event.name, event.rung) == (name, "answering")])

    def _goes_on(self) -> None:
        wait_for(lambda: self._is_ready() or self._verdict(), self._seconds, "READY")
        assert self._verdict().get("state", "") in ("", *self.want.instead), self._verdict()
        if self.cell.fault != "STOP":
            self._asks()

    def _asks(self) -> None:
        """See that it answers: at once, or again, or that it failed where that is as right."""
        if not self.want.instead:
            assert self._answer(), "no answer"
            return
        wait_for(lambda: self._serves() or self._verdict(), self._seconds, "an answer, or a verdict")

    def _serves(self) -> bool:
        try:
            return bool(self._answer())
        except AssertionError:
            return False

    def _answer(self) -> str:
        return self.place.trtdist("client", "--prompt", PROMPT, "--max-tokens", 4).stdout.strip()

    def _interrupt(self) -> None:
        """A supervisor that hangs is killed after the third Ctrl-C."""
        assert self.front is not None
        for _ in range(3):
            if self.front.poll() is None:
                self.front.send_signal(2)
                wait_for(self._took_signal, 10, "the signal to be taken")
        self.front.communicate(timeout=self._seconds)

    def _took_signal(self) -> bool:
        assert self.front is not None
        if self.front.poll() is not None:
            return True
        text = Path(f"/proc/{self.front.pid}/status").read_text()
        return not int(text.split("ShdPnd:")[1].split()[0], 16) >> 1 & 1

    def _is_told(self) -> None:
        if self.want.outcome == "FAILED" and self.cell.process != "supervisor":
            wait_for(self._failed, self._seconds, "FAILED to be told")
            return
        wait_for(self._verdict, self._seconds, f"the verdict {self.want.outcome}")

    def _ready_again(self) -> bool:
        again = self.place.events(Restarting)
        states = [(event.state, event.detail) for event in self.place.events(RunState)]
        return bool(again) and states[-1] == ("READY", "") and self._serves_again(again[0].step)

    def _serves_again(self, step: str) -> bool:
        return len([event for event in self.place.events(StepStarted) if event.step == step]) > 1

    def _verdict(self) -> dict[str, object]:
        return self.place.verdict() or {}

    def _answers_are_right(self, load: Load | None, known: set[str]) -> None:
        if load is None:
            return
        wrong = [each for each in load.outcomes if not each.error and each.text not in known]
        assert len(known) == 1 and wrong == [], wrong

    def _end(self, began: float) -> float:
        """End what goes on, and see that nothing is left; seconds from the fault, or from `down`, to that."""
        if self.want.outcome in ("READY", "AGAIN"):
            began = time.monotonic()
            self.place.trtdist("down")
        verdict = wait_for(self._verdict, STOP_S * self.patience, "a verdict")
        wanted = "STOPPED" if self.want.outcome in ("READY", "AGAIN") else self.want.outcome
        assert verdict["state"] in (wanted, *self.want.instead), verdict
        failed = verdict["state"] in ("FAILED", "TIMEOUT")
        if "disk full" in self.cell.fault and failed:
            assert "disk" in f"{verdict['reason']} {self.place.trtdist('why').stdout}", verdict
        first = verdict["first"]
        cause = first["name"] if isinstance(first, dict) else ""
        assert cause in (self.want.causes if failed else ("",)), verdict
        if self.front is not None:
            output, _ = self.front.communicate(timeout=STOP_S * self.patience)
            assert "Traceback" not in output, output
        if self.machine is not None:
            self.machine.mend(self.cell.fault)
        self._nothing_runs()
        return time.monotonic() - began

    def _nothing_runs(self) -> None:
        wait_for(lambda: not self._alive(), 5 * self.patience, "the end of every process that the events name")
        self.place.nothing_left()
        left = [path for path in self.shared if path.exists()]
        assert left == [], f"shared memory is left: {left}"

    def _alive(self) -> list[ProcessId]:
        found: list[ProcessId] = []
        for record in EventReader(self.place.runs()[-1] / "events").poll():
            event = record.event
            if isinstance(event, TaskStarted):
                found += [ProcessId(event.pid, event.started), ProcessId(event.shim_pid, event.shim_started)]
            elif isinstance(event, (StepStarted, SupervisorStarted)):
                found.append(ProcessId(event.pid, event.started))
        return [process for process in found if process.alive()]
