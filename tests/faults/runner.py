"""Runs one cell of the matrix: brings a deployment to the moment, causes the fault, and holds the run to what must be.

Whatever the fault: the verdict and the cause are the expected ones, in time; every answer is the right one or an error;
no process, file or shared memory of the run is left. Ports, mounts and network namespaces end with the processes.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from benchmarks.steady_load import Load
from tests.end_to_end.seen_run import SeenRun
from tests.faults.asking import open_requests
from tests.faults.machine import CUT_S, Machine
from tests.faults.place import Place, Target
from tests.faults.table import (
    DEADLY,
    DEPLOYMENTS,
    READY_S,
    STOP_S,
    UP_S,
    Cell,
    Expected,
    may_be_new,
    of_context,
    waits,
)
from tests.supervisor.runs import wait_for
from trtdist.events import Restarting, Rung, RunState, StepStarted, SupervisorStarted, TaskStarted
from trtdist.serving.slug import CONTEXT

__all__ = ["PROMPT", "Figures", "run"]

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
timeouts: {{ready: {ready:g}, stop: {stop:g}, stall: {stall:g}}}
"""
AGAIN = "restart: {policy: on-failure, backoff: 200ms}"


@dataclass(frozen=True)
class Figures:
    """Seconds from a fault to what is told of it, and to nothing being left; requests answered and failed."""

    told: float
    clean: float
    answered: int = 0
    failed: int = 0

    def __str__(self) -> str:
        asked = f", {self.answered} requests answered, {self.failed} failed" if self.answered or self.failed else ""
        return f"told {self.told:.2f} s, clean {self.clean:.2f} s{asked}"


def run(cell: Cell, want: Expected, place: Place, machine: Machine | None = None) -> Figures:
    """Run a cell of which `want` must come, at a place where nothing else runs; faults of the machine need one.

    An AssertionError says what did not hold.
    """
    return _Life(cell, want, place, machine).run()


@dataclass
class _Life:
    cell: Cell
    want: Expected
    place: Place
    machine: Machine | None

    @property
    def _seen(self) -> SeenRun:
        folder = self.place.run_dir()
        assert folder is not None
        return SeenRun(folder)

    @property
    def _seconds(self) -> float:
        return self.want.seconds * self.place.patience

    def run(self) -> Figures:
        self.place.bring_up(self._topology())
        self._wait_for_moment()
        with self._load() as load:
            known = load.answers() if load else set()
            asking = self._hold_the_stop_open() if self.cell.moment == "stops" else None
            self.place.remember()
            began = time.monotonic()
            self._inflict()
            told = self._outcome(began)
        self._answers_are_right(load, known)
        if asking is not None:
            asking.communicate(timeout=60 * self.place.patience)
        ended = self._end(began)
        failed = len(load.failed()) if load else 0
        return Figures(told, ended, len(load.outcomes) - failed if load else 0, failed)

    def _topology(self) -> str:
        launch, again = DEPLOYMENTS[self.cell.deployment]
        patience = self.place.patience
        context, generation = self._lasting()
        return TOPOLOGY.format(
            launch=launch,
            again=f", {AGAIN}" if again else "",
            one=AGAIN if again else "",
            context=context,
            generation=generation,
            ready=(READY_S if self.want.outcome == "TIMEOUT" else UP_S) * patience,
            stop=STOP_S * patience,
            stall=10 * patience if waits(self.cell) else 300,
        )

    def _lasting(self) -> tuple[str, str]:
        """What makes a moment last, of a context and a generation server: one loads, reads or answers for longer."""
        loads, reads, answers = (seconds * self.place.patience for seconds in (2, 5, 0.2))
        if self.cell.moment == "stops":
            return f"prefill_delay: {reads:g}" if self._holds_context else "", f"step_delay: {answers:g}"
        loading = f"load_delay: {loads:g}"
        context = loading if self.cell.moment == "starts" else ""
        return context, ", ".join([loading] * (self.cell.moment in ("starts", "loaded")) + ["step_delay: 0.01"])

    def _wait_for_moment(self) -> None:
        if self.cell.moment in ("ready", "serves", "stops"):
            self.place.wait_for_ready()
            return
        loaded = self.cell.moment == "loaded"
        there = (lambda: self._seen.told('"rung": "engine"')) if loaded else self._target
        wait_for(lambda: self.place.run_dir() and there(), UP_S * self.place.patience, "the moment")

    def _target(self) -> Target | None:
        """The process to hit, None while there is none."""
        name = self.cell.process
        head = next(iter(self._seen.events(SupervisorStarted)), None)
        if head is None or name in ("supervisor", "machine"):
            return head and Target(head.host, head.pid)
        if name == "launcher":
            launch, _ = DEPLOYMENTS[self.cell.deployment]
            step = "workers" if launch == "mpi_world" else "ctx.0"
            steps = (event for event in self._seen.events(StepStarted) if event.step == step)
            return next((Target(head.host, event.pid) for event in steps), None)
        task = name.removeprefix("shim of ")
        found = [event for event in self._seen.events(TaskStarted) if event.name == task]
        if not found:
            return None
        return Target(found[-1].host, found[-1].shim_pid if name != task else found[-1].pid)

    @contextmanager
    def _load(self) -> Iterator[Load | None]:
        if self.cell.moment != "serves":
            yield None
            return
        with self.place.load() as load:
            yield load

    @property
    def _holds_context(self) -> bool:
        return self.cell.moment == "stops" and of_context(self.cell)

    def _hold_the_stop_open(self) -> subprocess.Popen[str]:
        """Ask for a long answer, then for the end of the run, which waits for the answer."""
        asking = self.place.start("client", "--prompt", PROMPT, "--max-tokens", 25)
        assert asking.stdout is not None
        if self._holds_context:
            run_dir = self._seen.folder
            wait_for(lambda: open_requests(run_dir, CONTEXT), UP_S, "a request in the context server")
        else:
            asking.stdout.read(1)
        self.place.start("down")
        wait_for(lambda: self._seen.told('"state": "STOPPING"'), 20 * self.place.patience, "STOPPING")
        return asking

    def _inflict(self) -> None:
        if self.machine is not None:
            self.machine.inflict(self.cell.fault)
            return
        target = wait_for(self._target, UP_S, f"a process {self.cell.process}")
        self.place.hit(target, self.cell.fault)

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
            reason = self._seen.events(Restarting)[0].reason
            assert reason.split()[0] in self.want.causes, reason
        elif self.cell.process == "supervisor":
            return self.place.without_supervisor(self.cell, self._seconds) - began
        else:
            self._is_told()
        if self.cell.fault in DEADLY and may_be_new(self.cell) and "AGAIN" in self.want.instead:
            assert (self._was_up() > 0) == (self.want.outcome == "AGAIN"), "started again, though never healthy"
        return time.monotonic() - began

    def _find_out(self, began: float) -> None:
        """See which of several outcomes it is; the one that is wanted must come in its time."""
        came = wait_for(self._what_came, UP_S * self.place.patience, "a verdict or READY")
        if came in self.want.instead:
            self.want = replace(self.want, outcome=came, seconds=UP_S)
        else:
            assert time.monotonic() - began < self._seconds, f"{came} came late"

    def _what_came(self) -> str:
        if self._verdict() or (self.want.outcome == "FAILED" and self._failed()):
            return str(self._verdict().get("state", "FAILED"))
        if not self._is_ready():
            return ""
        return "AGAIN" if "AGAIN" in self.want.instead and self._seen.events(Restarting) else "READY"

    def _failed(self) -> bool:
        # On a full disk, the verdict alone has room.
        return self._seen.told('"state": "FAILED"') or bool(self._verdict())

    def _is_ready(self) -> bool:
        return self._seen.told('"state": "READY"')

    def _was_up(self) -> int:
        """How often the service that is hit was told to answer."""
        name = self.cell.process.removeprefix("shim of ")
        return len([event for event in self._seen.events(Rung) if (event.name, event.rung) == (name, "answering")])

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
        return self.place.trtdist("client", "--prompt", PROMPT, "--max-tokens", 4).strip()

    def _is_told(self) -> None:
        if self.want.outcome == "FAILED":
            wait_for(self._failed, self._seconds, "FAILED to be told")
            return
        wait_for(self._verdict, self._seconds, f"the verdict {self.want.outcome}")

    def _ready_again(self) -> bool:
        again = self._seen.events(Restarting)
        states = [(event.state, event.detail) for event in self._seen.events(RunState)]
        return bool(again) and states[-1] == ("READY", "") and self._serves_again(again[0].step)

    def _serves_again(self, step: str) -> bool:
        return len([event for event in self._seen.events(StepStarted) if event.step == step]) > 1

    def _verdict(self) -> dict[str, object]:
        return self._seen.verdict() or {}

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
        verdict = wait_for(self._verdict, STOP_S * self.place.patience, "a verdict")
        wanted = "STOPPED" if self.want.outcome in ("READY", "AGAIN") else self.want.outcome
        assert verdict["state"] in (wanted, *self.want.instead), verdict
        failed = verdict["state"] in ("FAILED", "TIMEOUT")
        if "disk full" in self.cell.fault and failed:
            assert "disk" in f"{verdict['reason']} {self.place.trtdist('why')}", verdict
        first = verdict["first"]
        cause = first["name"] if isinstance(first, dict) else ""
        assert cause in (self.want.causes if failed else ("",)), verdict
        self.place.followed_to_its_end(STOP_S * self.place.patience)
        if self.machine is not None:
            self.machine.mend(self.cell.fault)
        self.place.nothing_runs()
        if not self.want.may_stay:
            self.place.no_files()
        return time.monotonic() - began
