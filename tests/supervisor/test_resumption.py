"""A job that Slurm queues again goes on as the same run, unless somebody had stopped it."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdist.cli.aftermath import after_death, give_up
from trtdist.events import ControlTaken, Record, RunState, SupervisorStarted, TaskStarted
from trtdist.observe.history import History
from trtdist.rundir import RunDir
from trtdist.supervisor import control, resumption, verdict
from trtdist.supervisor.facts import Death, Outcome


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path / "run-20260101-000000-abcd")
    for folder in (found.logs, found.events, found.control):
        folder.mkdir(parents=True)
    return found


@pytest.mark.parametrize(("text", "count"), [("", 0), ("0", 0), ("2", 2), ("x", 0)])
def test_how_often_slurm_has_started_it_before(text: str, count: int) -> None:
    assert resumption.attempt({"SLURM_RESTART_COUNT": text} if text else {}) == count


def test_an_interrupted_run_goes_on_and_keeps_its_verdict(run: RunDir) -> None:
    for number, reason in ((1, "job 7 was preempted by another job"), (2, "job 7 lost node2")):
        verdict.write_once(run, verdict.compose(Outcome("INTERRUPTED", 130, reason), run, None))
        assert resumption.resume(run, number)
        assert not run.verdict.exists()
        assert reason in run.earlier_verdict(number).read_text()
    assert resumption.resume(run, 3)


def test_a_supervisor_that_was_killed_explains_no_later_death(run: RunDir) -> None:
    """That of an attempt that hung, before Slurm has queued the job again."""
    death = Death("supervisor", "supervisor", None, 9, 100.0, "was killed by SIGKILL", 0)
    killed = give_up(run, Outcome("INTERRUPTED", 130, "interrupted; the supervisor hung and was killed"))
    assert after_death(run, death) == killed
    assert resumption.resume(run, 1)
    found = after_death(run, death)
    assert (found.state, found.reason) == ("FAILED", "the supervisor died first: it was killed by SIGKILL")


def test_a_stopped_run_stays_stopped(run: RunDir) -> None:
    verdict.write_once(run, verdict.compose(Outcome("STOPPED", 0, "stopped by `trtdist down`"), run, None))
    assert not resumption.resume(run, 1)
    assert run.verdict.exists()


def test_a_request_of_an_earlier_attempt_is_not_taken_again(run: RunDir) -> None:
    before = control.ask(run, control.DRAIN, 5.0, "ctx.0")
    after = control.ask(run, control.DOWN)
    assert [found.name for found in control.ControlReader(run, [before]).poll()] == [after]


def test_what_an_earlier_attempt_said_is_forgotten() -> None:
    history = History()
    events = [
        SupervisorStarted("node1", 1, 1, "7"),
        RunState("READY"),
        TaskStarted("gen.0", "gen.0.0", "gen.0", 0, "node1", 2, 1, 3, 1),
        ControlTaken("request", "down"),
        RunState("INTERRUPTED"),
        SupervisorStarted("node2", 5, 1, "7"),
        RunState("STARTING"),
    ]
    history.extend(Record(float(at), "supervisor", event) for at, event in enumerate(events, 1))
    assert (history.state, history.tasks, history.asked, history.ready) == ("STARTING", {}, None, None)
    assert history.supervisor == SupervisorStarted("node2", 5, 1, "7")
    assert (history.begun, history.last) == (1.0, 7.0)
