"""What Slurm says of a run's job goes before what its files last said; it is asked seldom, and once for all."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.observe.fake_run import FakeRun, make_plan, reconciled
from trtdist.errors import SlurmDownError, SlurmError
from trtdist.events import Record, RunState, SupervisorStarted
from trtdist.observe.jobs import JobWatcher
from trtdist.observe.snapshot import RunReader
from trtdist.observe.state import JobLook, Machine, RunStatus
from trtdist.plan import to_json
from trtdist.process import ProcessId

NOW = 1000.0
ELSEWHERE = [
    Record(100.0, "supervisor", SupervisorStarted("node1", 5, 5, "7")),
    Record(101.0, "supervisor", RunState("READY")),
]


class Squeue:
    """Answers as squeue does, and counts."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        self.asked: list[list[str]] = []

    def __call__(self, words: list[str]) -> str:
        self.asked.append(words)
        return "\n".join(self.lines)


def state(job: JobLook | None, records: list[Record]) -> RunStatus:
    machine = Machine(alive=lambda host, process: None, now=NOW, created=NOW - 500.0, job=job)
    return reconciled(make_plan(), records, None, machine)


def seen(line: str) -> JobLook:
    found = JobWatcher(Squeue(line)).look("7")
    assert found is not None
    return found


def test_a_job_that_waits() -> None:
    look = seen("7|PENDING|Priority|2000|N/A||me|x")
    status = state(look, [])
    assert (status.state, status.detail) == ("PENDING", "job 7 waits (Priority)")
    assert look.starts == 2000.0


def test_a_job_that_waits_in_vain_says_what_to_do() -> None:
    assert "set slurm.account" in seen("7|PENDING|InvalidAccount|N/A|N/A||me|x").detail


def test_a_job_that_was_ended_takes_its_run_along() -> None:
    status = state(seen("7|NODE_FAIL|NodeDown|100|500|node1|me|x"), ELSEWHERE)
    assert status.state == "FAILED"
    assert status.failure is not None
    assert status.failure.reason == "job 7 is over: a node failed (NodeDown)"
    assert status.supervisor_alive is False


@pytest.fixture
def with_spare(tmp_path: Path) -> FakeRun:
    """A run that has a node more than it uses, and node1 as its head."""
    fake = FakeRun.create(tmp_path)
    allocation = replace(fake.plan.allocation, nodes=2)
    fake.run.plan.write_text(to_json(replace(fake.plan, allocation=allocation)))
    fake.run.resolved_env.write_text("TRTDIST_NODES='node1 node2'\n")
    return fake


def with_head(fake: FakeRun, state: str) -> RunStatus:
    slurm = {"squeue": "7|RUNNING|None|100|900|node[1-2]|me|x", "sinfo": f"node1|{state}"}
    return RunReader(fake.run, JobWatcher(lambda words: slurm[words[0]])).look().status


def test_a_job_that_outlives_its_head_node_is_no_ready_run(
    with_spare: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTDIST_CLOCK_AHEAD", "60")  # so that what it writes now was written a minute ago
    with_spare.write("supervisor", SupervisorStarted("node1", 5, 5, "7"), RunState("READY"))
    there = ("idle", "allocated*", "mixed*", "failing")
    assert {state: with_head(with_spare, state).state for state in there} == dict.fromkeys(there, "READY")
    lost = with_head(with_spare, "down*")
    assert lost.state == "FAILED"
    assert lost.failure is not None
    assert lost.failure.reason == (
        "node1, where the supervisor ran, is down; "
        "Slurm keeps the job with the nodes that are left until `trtdist down`"
    )


def test_a_supervisor_that_was_just_heard_of_is_on_no_lost_node(with_spare: FakeRun) -> None:
    with_spare.write("supervisor", SupervisorStarted("node1", 5, 5, "7"), RunState("READY"))
    assert with_head(with_spare, "down*").state == "READY"


def test_a_supervisor_that_is_seen_alive_is_on_no_lost_node(
    with_spare: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTDIST_CLOCK_AHEAD", "60")
    here = ProcessId.of(os.getpid())
    assert here is not None
    started = SupervisorStarted(socket.gethostname(), here.pid, here.started, "7")
    with_spare.write("supervisor", started, RunState("READY"))
    assert with_head(with_spare, "down*").state == "READY"


def test_a_verdict_may_show_up_late() -> None:
    assert state(seen(f"7|COMPLETED|None|100|{NOW - 1:.0f}|node1|me|x"), ELSEWHERE).state == "READY"
    assert state(seen("7|COMPLETING|None|100|500|node1|me|x"), ELSEWHERE).state == "READY"


def test_a_job_that_slurm_has_forgotten_is_over() -> None:
    def forgotten(words: list[str]) -> str:
        raise SlurmError("squeue: slurm_load_jobs error: Invalid job id specified")

    status = state(JobWatcher(forgotten).look("7"), ELSEWHERE)
    assert (status.state, status.detail) == ("FAILED", "job 7 is over: Slurm does not know it any more")


def test_accounting_tells_how_a_job_ended_that_slurm_has_forgotten() -> None:
    asked = []

    def answers(words: list[str]) -> str:
        asked.append(words[0])
        if words[0] == "squeue":
            raise SlurmError("squeue: slurm_load_jobs error: Invalid job id specified")
        return "7|CANCELLED by 1000|None|100|500|node[1-2]|me|x\n8|RUNNING|None|100|Unknown|node1|me|x"

    watcher = JobWatcher(answers)
    watcher.expect(["7", "8"])
    look = watcher.look("7")
    assert look is not None
    assert (look.detail, look.ended) == ("job 7 is over: it was cancelled (scancel)", 500.0)
    # What accounting takes for running, the controller knows to be over.
    other = watcher.look("8")
    assert other is not None and other.detail == "job 8 is over: Slurm does not know it any more"
    assert asked == ["squeue", "sacct"]


def test_a_controller_that_is_down_says_nothing() -> None:
    def down(words: list[str]) -> str:
        raise SlurmDownError("squeue: Unable to contact slurm controller")

    watcher = JobWatcher(down)
    assert watcher.look("7") is None
    assert state(None, ELSEWHERE).state == "READY"


def test_many_jobs_are_one_question_every_few_seconds() -> None:
    squeue = Squeue(*(f"{number}|RUNNING|None|1|2|n|me|x" for number in range(1, 51)))
    watcher = JobWatcher(squeue)
    watcher.expect([str(number) for number in range(1, 51)])
    for _ in range(20):
        for number in range(1, 51):
            look = watcher.look(str(number))
            assert look is not None and look.detail == f"job {number} runs on n"
    assert watcher.calls == 1
    assert len(squeue.asked[-1][1].split(",")) == 50
