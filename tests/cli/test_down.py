"""`trtdist down` on real supervisors over hand-made runs: asked, hung, dead, ended before, never started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.runs import DEAF, HandMade, wait_for
from trtdist.cli.aftermath import give_up
from trtdist.events import StepStarted, SupervisorStarted, TaskExited, TaskStarted
from trtdist.process import ProcessId
from trtdist.supervisor.facts import Outcome
from trtdist.supervisor.remains import recorded_remains

HERE = socket.gethostname()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[HandMade]:
    """A run directory whose steps sleep."""
    run = HandMade(tmp_path)
    yield run
    run.clean()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of somebody else."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def start_down(made: HandMade, *arguments: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", "from trtdist.cli.main import main; main()", "down", *arguments]
    environ = {**os.environ, "TRTDIST_RUNS": str(made.folder)}
    return subprocess.Popen(program, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def down(made: HandMade, *arguments: str) -> str:
    child = start_down(made, *arguments)
    out, err = child.communicate(timeout=40)
    assert child.returncode == 0, err
    assert out.count("\n") == 1
    made.nothing_left()
    return out


def test_down_and_down_again(made: HandMade) -> None:
    supervisor = made.up()
    assert "is down and nothing is left" in down(made)
    assert supervisor.wait(60) == 0
    assert made.verdict()["state"] == "STOPPED"
    assert "has ended already and nothing is left (STOPPED, stopped by `trtdist down`)" in down(made, "sim")


def test_two_at_once(made: HandMade) -> None:
    made.up()
    children = [start_down(made), start_down(made)]
    for child in children:
        out, err = child.communicate(timeout=40)
        assert child.returncode == 0, err
        assert "nothing is left" in out
    assert made.verdict()["state"] == "STOPPED"
    made.nothing_left()


def test_the_grace_is_the_users(made: HandMade) -> None:
    made.program("workers", DEAF)
    made.up("--grace", "100")
    assert "is down" in down(made, "--grace", "0.3")
    assert made.verdict()["state"] == "STOPPED"


def test_a_dead_supervisor(made: HandMade) -> None:
    supervisor = made.up()
    supervisor.kill()
    supervisor.wait(60)
    down(made)
    verdict = made.verdict()
    assert verdict["state"] == "FAILED"
    assert verdict["reason"] == f"the supervisor (pid {supervisor.pid}) died first"
    assert verdict["first"]["name"] == "supervisor"
    assert verdict["last_lines"]


def test_a_dead_supervisor_that_somebody_else_has_given_up(made: HandMade) -> None:
    """`up` kills one that hangs after the third Ctrl-C, which is no failure for a `down` that waits meanwhile."""
    supervisor = made.up()
    give_up(made.run, Outcome("INTERRUPTED", 130, "interrupted; it hung"))
    supervisor.kill()
    supervisor.wait(5)
    down(made)
    verdict = made.verdict()
    assert (verdict["state"], verdict["exit_code"], verdict["first"]) == ("INTERRUPTED", 130, None)


@pytest.mark.long
def test_a_death_that_a_hung_supervisor_did_not_tell_is_why_the_run_failed(made: HandMade) -> None:
    supervisor = made.up()
    supervisor.send_signal(signal.SIGSTOP)
    (task,) = (event for event in made.events(TaskStarted) if event.name == "nats")
    os.kill(task.pid, signal.SIGKILL)
    wait_for(lambda: [event for event in made.events(TaskExited) if event.name == "nats"], 60, "the end of nats")
    down(made)
    assert supervisor.wait(60) == -signal.SIGKILL
    verdict = made.verdict()
    assert (verdict["state"], verdict["first"]["name"]) == ("FAILED", "nats")
    assert verdict["reason"].endswith("was killed by SIGKILL; its supervisor hung and was killed")


@pytest.mark.long
def test_a_hung_supervisor(made: HandMade) -> None:
    supervisor = made.up()
    supervisor.send_signal(signal.SIGSTOP)
    child = start_down(made)
    _, err = child.communicate(timeout=40)
    assert child.returncode == 0
    assert f"the supervisor (pid {supervisor.pid}) does not react and gets SIGTERM" in err
    assert supervisor.wait(60) == -signal.SIGKILL
    assert made.verdict()["reason"] == "stopped by `trtdist down`; its supervisor hung and was killed"
    made.nothing_left()


def test_what_a_run_left_behind_goes_with_the_next_down(made: HandMade) -> None:
    """A verdict that tells the end and a process that outlived it."""
    made.run.verdict.write_text(json.dumps({"state": "FAILED", "reason": "because", "exit_code": 1, "first": None}))
    stray = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        ticks = int(Path(f"/proc/{stray.pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
        made.say("task.gen.0.0", TaskStarted("workers", "gen.0.0", "gen.0", 0, HERE, stray.pid, ticks, 1, 1))
        assert "(FAILED, because)" in down(made)
        assert stray.wait(60) == -signal.SIGKILL
    finally:
        stray.kill()
        stray.wait()


def test_another_process_with_a_recorded_pid_is_left_alone(made: HandMade, stranger: subprocess.Popen[bytes]) -> None:
    made.say("task.gen.0.0", TaskStarted("workers", "gen.0.0", "gen.0", 0, HERE, stranger.pid, 1, stranger.pid, 1))
    made.say("supervisor", SupervisorStarted(HERE, stranger.pid, 1))
    down(made)
    assert stranger.poll() is None


def elsewhere(made: HandMade, process: subprocess.Popen[bytes]) -> None:
    """Have the run be on another machine, where its processes have numbers that mean something else here."""
    identity = ProcessId.of(process.pid)
    assert identity is not None
    made.say("supervisor", SupervisorStarted("node9", identity.pid, identity.started))
    made.say("supervisor", StepStarted("workers", identity.pid, identity.started))


def test_a_run_on_another_machine_is_only_asked(made: HandMade, stranger: subprocess.Popen[bytes]) -> None:
    elsewhere(made, stranger)
    child = start_down(made)
    wait_for(lambda: any(made.run.control.iterdir()), 60, "the request")
    made.run.verdict.write_text(json.dumps({"state": "STOPPED", "reason": "asked", "exit_code": 0, "left": []}))
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert "is down and nothing is left" in out
    assert stranger.poll() is None
    assert made.local.exists()


def test_what_is_left_on_another_machine_is_named(made: HandMade, stranger: subprocess.Popen[bytes]) -> None:
    elsewhere(made, stranger)
    made.run.verdict.write_text(json.dumps({"state": "FAILED", "reason": "x", "exit_code": 1, "left": ["gen.0.0"]}))
    child = start_down(made)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "this was still there on node9: gen.0.0; run `trtdist down sim-20260101-000000-abcd` on node9" in err
    assert stranger.poll() is None
    assert made.local.exists()


@pytest.mark.long
def test_a_supervisor_on_another_machine_that_does_not_answer(
    made: HandMade, stranger: subprocess.Popen[bytes]
) -> None:
    elsewhere(made, stranger)
    child = start_down(made)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "does not answer from here: run `trtdist down sim-20260101-000000-abcd` on node9" in err
    assert not made.run.verdict.exists()
    assert stranger.poll() is None
    assert made.local.exists()


def test_a_run_that_never_started(made: HandMade) -> None:
    assert "is down" in down(made)
    assert made.verdict()["state"] == "STOPPED"
    assert made.supervise().wait(60) == 1
    made.nothing_left()


def test_a_run_that_is_just_starting(made: HandMade) -> None:
    child = start_down(made)
    wait_for(lambda: any(made.run.control.iterdir()), 60, "the request")
    supervisor = made.supervise()
    assert child.wait(60) == 0
    child.communicate()
    told = made.verdict()
    assert told["state"] == "STOPPED"
    # One that starts later than it is waited for finds that its run has ended.
    assert supervisor.wait(60) == (1 if "before its supervisor had started" in told["reason"] else 0)
    made.nothing_left()


def test_no_run_at_all(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from trtdist.cli.main import main; main()", "down"]
    environ = {**os.environ, "TRTDIST_RUNS": str(tmp_path)}
    done = subprocess.run(program, env=environ, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 2
    assert "there is no run under" in done.stderr


def test_what_runs_on_other_nodes_is_not_looked_for_here(made: HandMade) -> None:
    """A pid of another node is nobody's here."""
    made.say("supervisor", SupervisorStarted("node1", 1, 1, "7"))
    made.say("supervisor", StepStarted("nats", 2, 1))
    made.say("task.nats", TaskStarted("nats", "nats", "", 0, "node1", 3, 1, 4, 1, "7.0"))
    assert recorded_remains(made.run).processes == ()
