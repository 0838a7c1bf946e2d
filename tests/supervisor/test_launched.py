"""What stays with a launcher that hides the end of its server, with real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.supervisor.runs import wait_for
from trtdist.supervisor import launched

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-S", "-m", launched.__name__]
END_S = 30.0


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return tmp_path


def environ(local: Path, rank: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TRTDIST_RANK": rank, "TRTDIST_LOCAL_DIR": str(local)}


def start(script: str, local: Path, rank: str = "1") -> subprocess.Popen[bytes]:
    """The program with a launcher that is this bash script, in a process group of its own."""
    return subprocess.Popen([*PROGRAM, "bash", "-c", script], env=environ(local, rank), start_new_session=True)


@pytest.fixture
def started(local: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Whatever is put in has ended afterwards, with its group, as the shim would have it."""
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_S)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 7", 7),
        ("kill -KILL $$", 137),
        ("echo exit 3 >&$TRTDIST_TOLD; exit 0", 3),
        ("echo exit 0 >&$TRTDIST_TOLD; exit 5", 5),
        pytest.param("echo exit 3 >&$TRTDIST_TOLD; exec sleep 600", 3, marks=pytest.mark.long),
        ("exec {TRTDIST_TOLD}>&-; exit 0", 0),
    ],
)
def test_the_end_of_the_server_counts(
    script: str, code: int, local: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    started.append(start(script, local))
    assert started[0].wait(END_S) == code


def test_term_reaches_the_server_alone(local: Path, started: list[subprocess.Popen[bytes]]) -> None:
    mark = local / "served"
    server = f"trap 'echo ended >{mark}; exit 0' TERM; echo pid $BASHPID >&$TRTDIST_TOLD; touch {local}/up"
    started.append(start(f"({server}; while :; do sleep 0.1; done); echo exit 0 >&$TRTDIST_TOLD", local))
    wait_for((local / "up").exists, END_S, "the server")
    started[0].send_signal(signal.SIGTERM)
    assert started[0].wait(END_S) == 0
    assert mark.read_text() == "ended\n"


@pytest.mark.long
def test_a_server_that_is_gone_already_is_left_alone(local: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """TERM comes between its end and the word of it."""
    server = f"sleep 600 & echo pid $! >&$TRTDIST_TOLD; echo $! >{local}/pid; touch {local}/up"
    started.append(start(f"{server}; wait; touch {local}/gone; exec sleep 600", local))
    wait_for((local / "up").exists, END_S, "the server")
    os.kill(int((local / "pid").read_text()), signal.SIGKILL)
    wait_for((local / "gone").exists, END_S, "the end of the server")
    started[0].send_signal(signal.SIGTERM)
    assert started[0].wait(END_S) == 0


@pytest.mark.long
def test_a_rank_without_server_leaves_a_moment_after_term(local: Path, started: list[subprocess.Popen[bytes]]) -> None:
    started.append(start(f"touch {local}/up; exec sleep 600", local))
    wait_for((local / "up").exists, END_S, "the launcher")
    began = time.monotonic()
    started[0].send_signal(signal.SIGTERM)
    assert started[0].wait(END_S) == 0
    assert time.monotonic() - began >= launched.LEAVE_S


def test_what_the_launcher_says_stop_with_leaves_nothing_in_dev_shm(local: Path) -> None:
    """It is MPI without a launcher, which leaves its segment where that lies, and has OMPI_* taken away from it."""
    shown = "import sys; from mpi4py import MPI; print(sys.executable, open('/proc/self/maps').read(), sep='\\n')"
    script = 'for NAME in "${!OMPI_@}" "${!PMIX_@}"; do unset "$NAME"; done; exec python3 -c "$0"'
    memory = local / "mpi of a step"
    memory.mkdir()
    real = Path(sys.executable).with_name("python3")
    told = {**environ(local, "0"), "TMPDIR": str(memory), "OMPI_MCA_btl_sm_backing_directory": str(memory)}
    told["PATH"] = f"{real.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*PROGRAM, "bash", "-c", script, shown], env=told, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    executable, *maps = done.stdout.splitlines()
    segments = [Path(line.split(maxsplit=5)[5]) for line in maps if "/sm_segment." in line]
    assert segments and {path.parent for path in segments} == {memory}
    assert executable == str(real)


def test_launchers_of_a_node_take_turns(local: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """Until the port is in use that the launcher has told its processes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    there = "TLLM_SPAWN_PROXY_PROCESS_IPC_ADDR=tcp://127.0.0.1:"
    started.append(start(f"touch {local}/one; export {there}{port}; sleep 600 & wait", local, rank="0"))
    wait_for((local / "one").exists, END_S, "the first")
    started.append(start(f"touch {local}/two; export {there}{port}; sleep 600 & wait", local, rank="0"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine, pytest.raises(OSError, match="in use"):
        mine.bind(f"\0{launched.turn_name(os.environ)}")
    assert not (local / "two").exists()
    with socket.create_server(("127.0.0.1", port)):
        wait_for((local / "two").exists, END_S, "the second")


@pytest.fixture
def turn() -> Iterator[None]:
    """Somebody has the turn, and keeps it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
        mine.bind(f"\0{launched.turn_name(os.environ)}")
        yield


@pytest.mark.usefixtures("turn")
def test_who_keeps_the_turn_stops_nobody(
    local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launched, "KEPT_S", 0.1)
    turn = launched.Turn(environ(local, "0"))
    assert not turn.taken
    told = capsys.readouterr().err
    assert told.startswith("trtdist: another process has had the turn to launch on this node for 0.1 s and has not")


def test_many_who_take_turns_are_waited_for(
    local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What counts is how long one of them has had it."""
    clock, name = [0.0], f"\0{launched.turn_name(os.environ)}"
    others: list[socket.socket] = []

    def another(seconds: float) -> None:
        for other in others:
            other.close()
        clock[0] += launched.TURN_S
        others[:] = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)] if clock[0] < 5 * launched.TURN_S else []
        for other in others:
            other.bind(name)

    monkeypatch.setattr(launched, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=another))
    another(0.0)
    mine = launched.Turn(environ(local, "0"))
    assert mine.taken and capsys.readouterr().err == ""
    clock[0] += launched.TURN_S + 1.0
    mine.look()
    assert not mine.taken


@pytest.mark.usefixtures("turn")
def test_other_ranks_wait_for_nobody(local: Path, started: list[subprocess.Popen[bytes]]) -> None:
    started.append(start("exit 4", local))
    assert started[0].wait(END_S) == 4


def test_a_launcher_that_is_not_there(local: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "no-such-launcher"], env=environ(local, "1"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        127,
        "trtdist: cannot start no-such-launcher: No such file or directory\n",
    )
