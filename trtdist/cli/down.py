"""`trtdist down`: stop a run in order and verify that nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable

import click

from trtdist import chain
from trtdist.cli.aftermath import AFTER_GRACE, after_death, bury, clean, give_up
from trtdist.cli.job_descent import JobDescent
from trtdist.cli.others import tell_of_others
from trtdist.cli.progress import Lines, say
from trtdist.errors import InputError, TrtdistError
from trtdist.events import ControlTaken, EventReader, SupervisorStarted
from trtdist.observe.living import find_live_run
from trtdist.observe.snapshot import job_of
from trtdist.observe.times import span
from trtdist.process import ProcessId
from trtdist.rundir import RunDir
from trtdist.supervisor import control, verdict
from trtdist.supervisor.facts import Death, Outcome, Settings
from trtdist.supervisor.remains import supervisor_of

__all__ = ["command"]

_PACE = 0.05
_TO_START = 3.0
_TO_REACT = 5.0
_TO_LEAVE = 2.0
# The request and its answer go through the file system that both machines share.
_TO_REACT_ELSEWHERE = 15.0


@click.command("down")
@click.argument("run", required=False)
@click.option(
    "--grace",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="How long its programs may take before they are killed; default: timeouts.stop of the topology.",
)
def command(run: str | None, grace: float | None) -> None:
    """Stop a run in order (router, workers, services) and verify that nothing is left.

    RUN is a run id, the start of one, a topology's name, or the id of a job of Slurm's; without it the newest run is
    meant, of those that have not ended if there are any. What a run left behind whose supervisor died is removed, too.
    A run that has ended already is no error. Runs that take over from it, or from which it is to take over, go as well.
    """
    found = find_live_run(run, os.environ)
    begun_before = chain.predecessor(found)
    if begun_before is not None and not begun_before.verdict.exists():
        # First, or it would have another one start.
        _take_down(begun_before, grace)
    seen = [found]
    _take_down(found, grace)
    while (after := chain.successor(seen[-1])) is not None and after not in seen:
        seen.append(after)
        _take_down(after, grace)
    tell_of_others(found)


def _take_down(found: RunDir, grace: float | None) -> None:
    """Stop one run, whose successor, if it waits, its supervisor calls off."""
    began = time.monotonic()
    ended_before = verdict.read(found)
    job = job_of(found)
    left = "nothing is left"
    if job:
        left = JobDescent(found, job, grace, _planned_grace(found) if grace is None else grace).go()
    else:
        if ended_before is None:
            _Descent(found, grace).go()
        _leave_nothing(found)
    if ended_before is None:
        # Of a node that a job has lost, nobody can say more than what may be there.
        unknown = ", ".join((verdict.read(found) or {}).get("left") or ())
        left = f"this may be left: {unknown}" if unknown else left
        click.echo(f"{found.run_id} is down and {left} ({span(time.monotonic() - began)})")
    else:
        reason = f"{ended_before.get('state')}, {ended_before.get('reason')}"
        click.echo(f"{found.run_id} has ended already and nothing is left ({reason})")


def _leave_nothing(run: RunDir) -> None:
    """Wait for the supervisor to go, then remove whatever it did not; TrtdistError names what cannot be removed."""
    found = supervisor_of(run)
    if found is not None and not _is_here(found):
        _require_nothing_left(run, found.host)
        return
    if found is not None:
        supervisor = _process(found)
        until = time.monotonic() + _TO_LEAVE
        while supervisor.alive() and time.monotonic() < until:
            time.sleep(_PACE)
        supervisor.signal(signal.SIGKILL)
    left = clean(run)
    if left:
        raise TrtdistError(f"{run.run_id} is down, but this is still there: {', '.join(left)}; end it by hand")


def _require_nothing_left(run: RunDir, host: str) -> None:
    """TrtdistError names what the supervisor on another machine could not remove."""
    left = (verdict.read(run) or {}).get("left")
    if left:
        raise TrtdistError(
            f"{run.run_id} is down, but this was still there on {host}: {', '.join(left)}; "
            f"run `trtdist down {run.run_id}` on {host}"
        )


def _is_here(supervisor: SupervisorStarted) -> bool:
    return supervisor.host == socket.gethostname()


def _process(supervisor: SupervisorStarted) -> ProcessId:
    return ProcessId(supervisor.pid, supervisor.started)


class _Descent:
    """Takes one run down that has no verdict yet: asks, then insists, then kills the supervisor and tidies up."""

    def __init__(self, run: RunDir, grace: float | None) -> None:
        self._run = run
        self._asked_for = grace
        self._grace = _planned_grace(run) if grace is None else grace
        self._events = EventReader(run.events)
        self._events.poll()
        self._display = Lines(time.time())
        self._taken: set[str] = set()

    def go(self) -> None:
        """Return when there is a verdict."""
        # Before looking for the supervisor, so that one that is just starting finds it.
        request = self._ask()
        found = self._find_supervisor()
        if found is None:
            self._bury(Outcome("STOPPED", 0, "taken down before its supervisor had started"))
        elif _is_here(found):
            self._bury(self._end(_process(found), request))
        elif not self._ends_elsewhere(found.host, request):
            raise TrtdistError(
                f"the supervisor of {self._run.run_id} on {found.host} does not answer from here: "
                f"run `trtdist down {self._run.run_id}` on {found.host}"
            )

    def _end(self, supervisor: ProcessId, request: str) -> Outcome:
        """End a supervisor on this machine; returns how the run ended in case that it leaves no verdict."""
        if self._ends_by_itself(supervisor, request) or self._ends_by_term(supervisor):
            return after_death(self._run, Death("supervisor", "supervisor", None, None, 0.0, "", 0))
        say("it does not react to that either and is killed")
        reason = "stopped by `trtdist down`; its supervisor hung and was killed"
        outcome = give_up(self._run, Outcome("STOPPED", 0, reason))
        supervisor.signal(signal.SIGKILL)
        return outcome

    def _bury(self, outcome: Outcome) -> None:
        if verdict.read(self._run) is None:
            bury(self._run, outcome)

    def _ask(self) -> str:
        try:
            return control.ask(self._run, control.DOWN, self._asked_for)
        except PermissionError as error:
            raise InputError(f"{self._run.run_id} is not yours to take down: {error}") from error
        except OSError as error:
            say(f"cannot leave a request for the supervisor ({error.strerror})")
            return ""

    def _find_supervisor(self) -> SupervisorStarted | None:
        self._wait(lambda: supervisor_of(self._run) is not None or self._has_verdict(), _TO_START)
        return supervisor_of(self._run)

    def _ends_elsewhere(self, host: str, request: str) -> bool:
        """Whether a supervisor on another machine takes the request and leaves a verdict within the grace.

        Nothing is known here of its processes, so it is only asked.
        """
        say(f"{self._run.run_id} runs on {host}: its supervisor there is asked")
        if not request or not self._wait(lambda: request in self._taken or self._has_verdict(), _TO_REACT_ELSEWHERE):
            return False
        return self._wait(self._has_verdict, self._grace + AFTER_GRACE + _TO_REACT_ELSEWHERE)

    def _ends_by_itself(self, supervisor: ProcessId, request: str) -> bool:
        """Whether the supervisor takes the request and ends within the grace, or is dead."""
        over = self._over(supervisor)
        if request and self._wait(lambda: request in self._taken or over(), _TO_REACT):
            return self._wait(over, self._grace + AFTER_GRACE)
        return over()

    def _ends_by_term(self, supervisor: ProcessId) -> bool:
        say(f"the supervisor (pid {supervisor.pid}) does not react and gets SIGTERM")
        supervisor.signal(signal.SIGTERM)
        return self._wait(self._over(supervisor), Settings().hurried_grace + _TO_REACT)

    def _over(self, supervisor: ProcessId) -> Callable[[], bool]:
        return lambda: self._has_verdict() or not supervisor.alive()

    def _has_verdict(self) -> bool:
        return self._run.verdict.exists()

    def _wait(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether a condition holds within a time; shows what happens meanwhile."""
        until = time.monotonic() + seconds
        while True:
            held = holds()
            self._hear()
            if held or time.monotonic() > until:
                return held
            time.sleep(_PACE)

    def _hear(self) -> None:
        records = self._events.poll()
        self._taken.update(record.event.request for record in records if isinstance(record.event, ControlTaken))
        self._display.tell(records)


def _planned_grace(run: RunDir) -> float:
    """The grace that the supervisor of a run was started with: timeouts.stop of its topology (seconds)."""
    import yaml

    default = Settings().grace
    try:
        found = yaml.safe_load(run.topology.read_text(encoding="utf-8"))["timeouts"]["stop"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return default
    return float(found) if isinstance(found, (int, float)) else default
