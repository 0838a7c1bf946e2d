"""The real supervisor with real processes: every death, both ways to ask for the end, and what is left after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.observe.fake_run import FakeRun
from tests.supervisor.runs import DEAF, SLEEP, HandMade, wait_for
from trtdist import chain
from trtdist.events import (
    ControlTaken,
    EndpointUp,
    Ready,
    StepExited,
    StepStarted,
    SupervisorStarted,
    TaskExited,
    TaskStarted,
)
from trtdist.process import ProcessId
from trtdist.rundir import RunDir
from trtdist.supervisor import control, verdict
from trtdist.supervisor.facts import Outcome

EVERYONE = ["ctx.0.0", "ctx.0.1", "gen.0.0", "router", "nats", "etcd", "canary"]
# Shims are alike: one of a rank and one of a service stand for the others, which the long tests kill too.
KILLS = [
    *(("program", victim) for victim in EVERYONE),
    *(("shim", victim) for victim in ("ctx.0.1", "nats")),
    *(pytest.param("shim", victim, marks=pytest.mark.long) for victim in EVERYONE if victim not in ("ctx.0.1", "nats")),
]


def test_up_and_down(made: HandMade) -> None:
    supervisor = made.up()
    assert [event.step for event in made.events(StepStarted)] == ["nats", "etcd", "workers", "router", "canary"]
    assert {event.service for event in made.events(EndpointUp)} == {"nats", "etcd"}
    asked = control.ask(made.run, control.DOWN, grace=600.0)
    # Long before the grace is over.
    assert supervisor.wait(60) == 0
    assert made.events(ControlTaken) == [ControlTaken(asked, "down")]
    assert [event.step for event in made.events(StepExited)][-2:] in (["nats", "etcd"], ["etcd", "nats"])
    assert made.states() == ["STARTING", "READY", "STOPPING", "STOPPED"]
    verdict = made.verdict()
    assert (verdict["state"], verdict["exit_code"], verdict["first"]) == ("STOPPED", 0, None)
    made.nothing_left()


def test_a_run_in_whose_place_another_has_taken_over_stops_itself(made: HandMade) -> None:
    before, other = (RunDir(made.run.path.with_name(name)) for name in ("before", "other"))
    for run in (before, other):
        run.path.mkdir()
        run.plan.write_text(made.run.plan.read_text())
    made.run.previous_run.write_text("before\n")
    before.handed_over.write_text("other\n")
    supervisor = made.up()
    assert supervisor.wait(30) == 0
    found = made.verdict()
    assert (found["state"], found["reason"]) == ("STOPPED", "not needed any more: other has taken over from before")
    assert chain.heir(before) == other
    made.nothing_left()


@pytest.mark.parametrize(("part", "victim"), KILLS)
def test_kill_any_process(made: HandMade, victim: str, part: str) -> None:
    for step in made.plan.steps:
        made.program(step.name, f"echo I am $$; {SLEEP}")
    supervisor = made.up()
    task = made.task(victim)
    wait_for(lambda: f"I am {task.pid}\n" in made.run.log(victim).read_text(), 60, "its words")
    os.kill(task.pid if part == "program" else task.shim_pid, signal.SIGKILL)
    verdict = made.verdict()
    assert supervisor.wait(60) == 1
    assert verdict["state"] == "FAILED"
    assert verdict["first"]["name"] == victim
    assert verdict["first"]["log"] == f"logs/{victim}.log"
    assert verdict["last_lines"] == [f"I am {task.pid}"]
    assert verdict["reason"].startswith(victim)
    made.nothing_left()


def test_a_killed_shim_comes_before_the_neighbours_that_it_took_along(made: HandMade) -> None:
    """As ranks over MPI: one ends with an error since the other has gone, before anybody saw that one go."""
    watching = f"until [ -e {made.folder}/go ]; do sleep 0.01; done; exit 14"
    made.program("workers", watching, SLEEP, SLEEP)
    made.script("workers", _script(made, "workers").partition("wait -n")[0] + "wait")
    supervisor = made.up()
    (made.folder / "go").touch()
    wait_for(lambda: [end for end in made.events(TaskExited) if end.name == "ctx.0.0"], 60, "the end of a neighbour")
    os.kill(made.task("ctx.0.1").shim_pid, signal.SIGKILL)
    assert supervisor.wait(60) == 1
    verdict = made.verdict()
    assert verdict["first"]["name"] == "ctx.0.1"
    assert verdict["reason"].startswith("ctx.0.1 (step workers) vanished")
    made.nothing_left()


def test_kill_a_launcher(made: HandMade) -> None:
    made.script("workers", "echo launching >&2\n" + _script(made, "workers"))
    supervisor = made.up()
    step = next(event for event in made.events(StepStarted) if event.step == "workers")
    os.kill(step.pid, signal.SIGKILL)
    assert supervisor.wait(60) == 1
    verdict = made.verdict()
    assert verdict["first"]["name"] == "workers"
    assert verdict["first"]["log"] == "logs/launch.workers.log"
    assert verdict["last_lines"] == ["launching"]
    assert verdict["reason"] == "workers ended as a whole: its launcher was killed by SIGKILL"
    made.nothing_left()


def test_kill_the_supervisor(made: HandMade) -> None:
    supervisor = made.up()
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not [p for p in made.identities() if p.alive()], 60, "the end of everything")


def test_exit_0_that_nobody_asked_for(made: HandMade) -> None:
    made.program("router", f"while [ ! -e {made.folder}/go ]; do sleep 0.05; done; echo bye")
    supervisor = made.up()
    (made.folder / "go").touch()
    assert supervisor.wait(60) == 1
    verdict = made.verdict()
    assert verdict["first"]["name"] == "router"
    assert verdict["first"]["code"] == 0
    assert verdict["last_lines"] == ["bye"]


def test_the_canary_may_leave(made: HandMade) -> None:
    made.program("canary", f"while [ ! -e {made.folder}/go ]; do sleep 0.05; done")
    supervisor = made.up()
    (made.folder / "go").touch()
    wait_for(lambda: made.events(StepExited), 60, "the canary's end")
    with pytest.raises(subprocess.TimeoutExpired):
        supervisor.wait(0.5)
    control.ask(made.run, control.DOWN)
    assert supervisor.wait(60) == 0


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM], [signal.SIGTERM] * 5])
@pytest.mark.parametrize("moment", [SupervisorStarted, StepStarted, TaskStarted, EndpointUp])
def test_signals_at_any_moment(made: HandMade, moment: type, signals: list[int]) -> None:
    supervisor = made.supervise()
    wait_for(lambda: made.events(moment), 60, moment.__name__)
    if moment is SupervisorStarted:
        wait_for(made.states, 60, "the first state")
    for count, number in enumerate(signals, start=1):
        supervisor.send_signal(number)
        wait_for(
            lambda count=count: supervisor.poll() is not None or _taken(made) >= count, 60, "the signal to be taken"
        )
    assert supervisor.wait(60) == 130
    assert made.verdict()["state"] == "INTERRUPTED"
    made.nothing_left()


def test_what_does_not_listen_is_killed_after_the_grace(made: HandMade) -> None:
    supervisor = _up_and_deaf(made)
    began = time.monotonic()
    control.ask(made.run, control.DOWN, grace=1.0)
    assert supervisor.wait(60) == 0
    assert time.monotonic() - began > 0.3
    made.nothing_left()


def test_another_request_shortens_the_grace(made: HandMade) -> None:
    supervisor = _up_and_deaf(made)
    control.ask(made.run, control.DOWN, grace=600.0)
    wait_for(lambda: "STOPPING" in made.states(), 60, "STOPPING")
    control.ask(made.run, control.DOWN, grace=0.2)
    assert supervisor.wait(60) == 0
    made.nothing_left()


def _up_and_deaf(made: HandMade) -> subprocess.Popen[bytes]:
    """A run whose ranks hear no signal any more but KILL."""
    made.program("workers", DEAF)
    supervisor = made.up()
    logs = [made.run.log(name) for name in made.tasks("workers")]
    wait_for(lambda: all(log.read_text() == "deaf\n" for log in logs), 60, "the traps")
    return supervisor


def test_a_taken_port_is_replaced(made: HandMade) -> None:
    (made.run.path / "taken").mkdir()
    (made.run.path / "taken" / "nats").write_text("2")
    (made.run.path / "health" / "nats").unlink()
    count = made.folder / "count"
    health = made.run.path / "health" / "nats"
    made.script("nats", f"echo x >> {count}; [ $(wc -l < {count}) -gt 2 ] || exit 1; touch {health}\n"
                + _script(made, "nats"))  # fmt: skip
    supervisor = made.up()
    assert made.run.resolved_env.read_text().count("# resolved nats") == 2
    control.ask(made.run, control.DOWN)
    assert supervisor.wait(60) == 0


@pytest.mark.parametrize("part", ["program", "shim"])
def test_a_service_that_is_killed_before_it_is_healthy_fails_the_run(made: HandMade, part: str) -> None:
    (made.run.path / "health" / "etcd").unlink()
    (made.run.path / "taken").mkdir()
    (made.run.path / "taken" / "etcd").write_text("1")
    supervisor = made.supervise()
    wait_for(lambda: [event for event in made.events(TaskStarted) if event.name == "etcd"], 60, "etcd")
    task = made.task("etcd")
    os.kill(task.pid if part == "program" else task.shim_pid, signal.SIGKILL)
    assert supervisor.wait(60) == 1
    assert (made.verdict()["state"], made.verdict()["first"]["name"]) == ("FAILED", "etcd")
    assert [event.step for event in made.events(StepStarted)].count("etcd") == 1
    made.nothing_left()


def test_a_service_that_cannot_start(made: HandMade) -> None:
    (made.run.path / "health" / "etcd").unlink()
    made.script("etcd", "echo 'etcd: no such binary' >&2; exit 127")
    supervisor = made.supervise()
    assert supervisor.wait(60) == 1
    verdict = made.verdict()
    assert verdict["first"]["name"] == "etcd"
    assert verdict["last_lines"] == ["etcd: no such binary"]
    assert "workers" not in [event.step for event in made.events(StepStarted)]
    made.nothing_left()


def test_a_service_that_is_never_healthy(made: HandMade) -> None:
    (made.run.path / "health" / "etcd").unlink()
    # Says nothing, also when it is told to end before it has quite begun.
    made.script("etcd", SLEEP)
    supervisor = made.supervise("--service-timeout", "0.5")
    assert supervisor.wait(60) == 3
    assert made.verdict()["reason"] == "etcd was not healthy within 0.5 s"
    made.nothing_left()


def test_not_ready_in_time(made: HandMade) -> None:
    supervisor = made.supervise("--ready-timeout", "1.5")
    assert supervisor.wait(60) == 3
    verdict = made.verdict()
    assert verdict["state"] == "TIMEOUT"
    assert verdict["reason"].startswith("not ready within 1.5 s: ctx.0 never came up, gen.0 never came up")
    made.nothing_left()


def test_a_missing_step_file(made: HandMade) -> None:
    (made.run.scripts / "03-workers.local.sh").unlink()
    assert made.supervise().wait(60) == 1
    assert made.verdict()["reason"] == "workers could not be started: scripts/03-workers.local.sh is missing"
    made.nothing_left()


def test_a_broken_step_file(made: HandMade) -> None:
    made.script("workers", "this is not (bash")
    assert made.supervise().wait(60) == 1
    verdict = made.verdict()
    assert verdict["first"]["name"] == "workers"
    assert any("syntax error" in line for line in verdict["last_lines"])


def test_no_addresses(made: HandMade) -> None:
    (made.run.path / "unresolvable").touch()
    assert made.supervise().wait(60) == 1
    assert made.verdict()["reason"] == "there is no address"


def test_an_unreadable_plan(made: HandMade) -> None:
    made.run.plan.write_text("{}")
    assert made.supervise().wait(60) == 1
    assert "cannot use the run directory" in made.verdict()["reason"]


def test_a_run_that_has_ended_is_not_started_again(made: HandMade) -> None:
    made.run.verdict.write_text("{}")
    assert made.supervise().wait(60) == 1
    assert made.events(StepStarted) == []
    assert made.run.verdict.read_text() == "{}"


def test_a_full_disk_is_said(made: HandMade) -> None:
    made.run.event_file("supervisor").symlink_to("/dev/full")
    assert made.supervise().wait(60) == 1
    verdict = made.verdict()
    assert verdict["state"] == "FAILED"
    assert "cannot write to the run directory" in verdict["reason"]
    assert "No space left on device" in verdict["reason"]
    assert "Traceback" not in made.run.log("supervisor").read_text()


def test_a_supervisor_that_is_bound_stops_the_run_when_its_parent_dies(made: HandMade) -> None:
    program = (
        "import subprocess, sys, os, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'tests.supervisor.fake_supervisor', sys.argv[1], '--bound-to',"
        " str(os.getpid())], start_new_session=True)\n"
        "time.sleep(1000)"
    )
    with open(made.run.log("supervisor"), "ab") as log:
        parent = subprocess.Popen([sys.executable, "-c", program, str(made.run.path)], stdout=log, stderr=log)
    made.processes.append(parent)
    wait_for(lambda: len(made.events(TaskStarted)) == 7, 60, "all tasks")
    parent.kill()
    parent.wait()
    assert made.verdict()["state"] == "INTERRUPTED"
    wait_for(lambda: not [p for p in made.identities() if p.alive()], 60, "the end of everything")
    made.nothing_left()


def test_children_that_escape_are_swept(made: HandMade) -> None:
    pid = made.folder / "pid"
    made.program("router", f"setsid sleep 1000 & echo $! > {pid}; {SLEEP}")
    supervisor = made.up()
    stray = ProcessId.of(int(wait_for(lambda: pid.exists() and pid.read_text(), 60, "what escapes")))
    assert stray is not None
    control.ask(made.run, control.DOWN)
    assert supervisor.wait(60) == 0
    assert not stray.alive()
    made.nothing_left()


def test_an_unknown_request_changes_nothing(made: HandMade) -> None:
    supervisor = made.up()
    control.ask(made.run, "dance")
    (made.run.control / "0-broken.json").write_text("{")
    wait_for(lambda: made.events(ControlTaken), 60, "the request to be taken")
    assert supervisor.poll() is None
    supervisor.terminate()
    assert supervisor.wait(60) == 130


def test_a_supervisor_is_light(made: HandMade) -> None:
    made.say("canary", Ready(1))
    supervisor = made.up()
    # Other work on the machine and what is left of the start only add to it.
    wait_for(lambda: _share_of_a_core(supervisor, 0.5) < 0.02, 60, "half a second with less than 2 % of a core")
    status = Path(f"/proc/{supervisor.pid}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
    assert resident < 40.0


def _share_of_a_core(process: subprocess.Popen[bytes], seconds: float) -> float:
    """What a process that lives on uses in a time."""
    before, began = _cpu_seconds(process.pid), time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)
    return (_cpu_seconds(process.pid) - before) / (time.monotonic() - began)


def _cpu_seconds(pid: int) -> float:
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


def _taken(made: HandMade) -> int:
    """How many signals the supervisor took."""
    return made.run.log("supervisor").read_text().count("got SIG")


def _script(made: HandMade, step: str) -> str:
    return (made.run.scripts / f"{made.plan.step(step).stem}.local.sh").read_text()


def test_a_run_is_started_once(tmp_path: Path) -> None:
    fake = FakeRun.create(tmp_path)
    fake.write("supervisor", SupervisorStarted("n1", 1, 1, "7"))
    before = fake.run.event_file("supervisor").read_bytes()
    words = [sys.executable, "-m", "trtdist.supervisor", str(fake.run.path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    told = f"trtdist: the run in {fake.run.path} was started before, in job 7, and is left alone"
    assert (done.returncode, done.stderr.partition(": render")[0]) == (2, told)
    assert fake.run.event_file("supervisor").read_bytes() == before


@pytest.mark.parametrize(("job", "count", "code"), [("7", "1", 1), ("7", "0", 2), ("8", "1", 2)])
def test_a_job_that_is_queued_again_may_start_its_run_again(tmp_path: Path, job: str, count: str, code: int) -> None:
    fake = FakeRun.create(tmp_path)
    fake.write("supervisor", SupervisorStarted("n1", 1, 1, "7"))
    verdict.write_once(fake.run, verdict.compose(Outcome("STOPPED", 0, "stopped"), fake.run, None))
    words = [sys.executable, "-m", "trtdist.supervisor", "--slurm", str(fake.run.path)]
    environ = {**os.environ, "SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": count}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    assert (done.returncode, "has ended already" in said, "is left alone" in said) == (code, code == 1, code == 2), said
