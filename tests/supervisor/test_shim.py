"""The rank shim with real processes: what it writes, passes on, and never leaves behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster import give_up
from tests.house.test_rooms import oldest_python
from trtdist.events import EventWriter, TaskExited, TaskRefused, TaskStarted, decode
from trtdist.observe.tail import TimeIndex
from trtdist.process import ProcessId, start_ticks
from trtdist.supervisor import shim
from trtdist.supervisor.shim import NodeFolder

SHIM = Path(shim.__file__)


def wait_for(holds: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """The first true value of a condition; fails when there is none in time."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.005)
    return value


@dataclass
class Place:
    """A run directory with shims in it; what is left of them is ended with the test."""

    run: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    python: str = sys.executable

    def argv(self, *program: str, options: tuple[str, ...] = (), name: str = "gen.0.1") -> list[str]:
        """The command line of a shim."""
        names = ["--run-dir", str(self.run), "--step", "workers", "--name", name, "--server", "gen.0", "--rank", "1"]
        return [self.python, "-I", "-S", str(SHIM), *names, *options, "--", *program]

    def start(self, *program: str, options: tuple[str, ...] = (), **more: Any) -> subprocess.Popen[str]:
        """Start a shim."""
        process = subprocess.Popen(
            self.argv(*program, options=options), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more
        )
        self.processes.append(process)
        return process

    def python_program(self, text: str) -> list[str]:
        """A program in Python, which says "up" when it is ready."""
        return [sys.executable, "-I", "-S", "-c", textwrap.dedent(text)]

    def finish(self, *program: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
        """Run a shim to its end: exit code and stderr."""
        process = self.start(*program, options=options)
        _, stderr = process.communicate(timeout=60)
        return process.returncode, stderr

    def up(self, *program: str, options: tuple[str, ...] = (), **more: Any) -> subprocess.Popen[str]:
        """Start a shim and wait until its program says "up"."""
        process = self.start(*program, options=options, **more)
        wait_for(lambda: b"up" in self.log(), "the program")
        wait_for(lambda: self.events(), "its start")
        return process

    def log(self) -> bytes:
        path = self.run / "logs" / "gen.0.1.log"
        return path.read_bytes() if path.exists() else b""

    def lines(self) -> list[str]:
        path = self.run / "events" / "task.gen.0.1.jsonl"
        return path.read_text().splitlines() if path.exists() else []

    def events(self) -> list[Any]:
        records = [decode(line) for line in self.lines()]
        return [record.event for record in records if record is not None]

    def program(self) -> ProcessId:
        event = self.events()[0]
        return ProcessId(event.pid, event.started)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    for name in ("logs", "events"):
        (tmp_path / name).mkdir()
    found = Place(tmp_path)
    yield found
    found.end()


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_the_exit_code_is_the_programs(place: Place, code: int) -> None:
    before = time.time()
    assert place.finish("sh", "-c", f"exit {code}") == (code, "")
    start, end = place.events()
    assert isinstance(start, TaskStarted) and isinstance(end, TaskExited)
    assert (end.step, end.name, end.pid, end.code, end.signal) == ("workers", "gen.0.1", start.pid, code, None)
    record = decode(place.lines()[1])
    assert record is not None and before < record.time < time.time() and record.writer == "task.gen.0.1"


def test_a_refusal_is_told_and_nothing_runs(place: Place) -> None:
    code, words = place.finish("touch", str(place.run / "ran"), options=("--refuse", "belongs on n0"))
    assert (code, words) == (1, "trtdist shim: gen.0.1 belongs on n0\n")
    assert place.events() == [TaskRefused("workers", "gen.0.1", "belongs on n0")]
    assert not (place.run / "ran").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_death_by_signal_is_told(place: Place, number: signal.Signals) -> None:
    assert place.finish("sh", "-c", f"ulimit -c 0; kill -{number.value} $$") == (128 + number, "")
    end = place.events()[1]
    assert (end.code, end.signal) == (None, number)


def test_the_start_names_both_processes(place: Place) -> None:
    process = place.up("sh", "-c", "echo up; exec sleep 60")
    event = place.events()[0]
    assert event.shim_pid == process.pid
    assert event.shim_started == start_ticks(process.pid)
    assert event.started == start_ticks(event.pid)
    wait_for(lambda: Path(f"/proc/{event.pid}/cmdline").read_bytes() == b"sleep\x0060\0", "the program")
    assert (event.step, event.server, event.rank, event.host) == ("workers", "gen.0", 1, os.uname().nodename)


def test_events_are_written_as_the_event_writer_does(place: Place, tmp_path: Path) -> None:
    place.finish("true")
    path = tmp_path / "task.gen.0.1.jsonl"
    writer = EventWriter(path)
    for event in place.events():
        writer.write(event)
    writer.close()
    for ours, theirs in zip(place.lines(), path.read_text().splitlines()):
        time_of = [line.split(",", 1) for line in (ours, theirs)]
        assert time_of[0][1] == time_of[1][1]
        assert list(json.loads(ours)) == list(json.loads(theirs))


@given(st.one_of(st.text(), st.integers(), st.none(), st.floats(min_value=0, max_value=1e10)))
def test_json_is_what_json_reads(value: object) -> None:
    assert json.loads(shim._json(value)) == value and shim._json(value).isascii()


def test_a_missing_program_is_named_in_the_log(place: Place) -> None:
    assert place.finish("/nonexistent/engine")[0] == 127
    assert b"cannot start /nonexistent/engine: No such file or directory" in place.log()
    assert place.events()[1].code == 127


@pytest.mark.parametrize("arguments", [[], ["--run-dir", "x"], ["--odd"], ["--rank", "x", "--", "true"]])
def test_wrong_arguments_are_one_sentence(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", str(SHIM), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("trtdist shim: ") and done.stderr.count("\n") == 1


def test_all_output_arrives_in_order(place: Place) -> None:
    program = place.python_program(
        """
        import os
        for number in range(40000):
            os.write(1 + number % 2, b"%06d %s\\n" % (number, b"x" * 200))
        """
    )
    assert place.finish(*program)[0] == 0
    assert [int(line[:6]) for line in place.log().splitlines()] == list(range(40000))


def test_output_is_bytes(place: Place) -> None:
    program = place.python_program("import os; os.write(1, bytes(range(256)) * 300 + b'no end of line')")
    place.finish(*program)
    assert place.log() == bytes(range(256)) * 300 + b"no end of line"


def test_a_second_task_appends_and_its_index_goes_on(place: Place) -> None:
    place.finish("echo", "one")
    place.finish("echo", "two")
    assert place.log() == b"one\ntwo\n"
    index = [line.split() for line in (place.run / "logs" / "gen.0.1.idx").read_text().splitlines()]
    assert [int(offset) for offset, _ in index] == [0, 4]


def test_the_index_tells_when_output_came(place: Place) -> None:
    """Each line has the time when it was printed, and that when the one before it was seen in the log."""
    program = place.python_program(
        """
        import sys, time
        seen = 0.0
        for number in range(1, 4):
            print(time.time(), seen, flush=True)
            while open(sys.argv[1]).read().count("\\n") < number:
                time.sleep(0.005)
            seen = time.time()
            time.sleep(0.1 * number)
        """
    )
    place.finish(*program, str(place.run / "logs" / "gen.0.1.log"))
    index = TimeIndex(place.run / "logs" / "gen.0.1.idx")
    offset, times, printed, seen = 0, [], [], []
    for line in place.log().splitlines(keepends=True):
        times.append(index.time_at(offset))
        printed.append(float(line.split()[0]))
        seen.append(float(line.split()[1]))
        offset += len(line)
    assert len(times) == 3 and times[0] < times[1] < times[2]
    # The index has milliseconds.
    assert all(before - 0.001 <= time <= after + 0.001 for before, time, after in zip(printed, times, seen[1:]))


def test_the_program_may_close_its_output(place: Place) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert place.finish("sh", "-c", "exec >&- 2>&-; sleep 0.5; exit 4") == (4, "")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 0.3


def test_a_silent_program_costs_nothing(place: Place) -> None:
    process = place.up("sh", "-c", "echo up; exec sleep 60")

    def rests() -> bool:
        before = _switches(process.pid)
        time.sleep(0.5)
        return _switches(process.pid) == before

    wait_for(rests, "half a second without a single wake-up")


def _switches(pid: int) -> str:
    """How often a process has gone to sleep."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(line for line in text.splitlines() if line.startswith("voluntary_ctxt"))


# By a pipe: a signal that comes just before a program sleeps does not wake it.
NOTES_SIGNALS = """
    import os, signal
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    for number in (1, 2, 3, 10, 12, 15):
        signal.signal(number, lambda number, frame: None)
    os.write(1, b"up\\n")
    while True:
        for number in os.read(wake, 64):
            os.write(1, b"got %d\\n" % number)
"""


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2", "QUIT"])
def test_signals_are_passed_on(place: Place, name: str) -> None:
    number = signal.Signals[f"SIG{name}"]
    process = place.up(*place.python_program(NOTES_SIGNALS))
    process.send_signal(number)
    wait_for(lambda: b"got %d\n" % number in place.log(), "the signal")
    assert process.poll() is None


def test_signals_that_were_ignored_or_blocked_outside_reach_the_program(place: Place) -> None:
    def deaf() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    process = place.up(*place.python_program(NOTES_SIGNALS), preexec_fn=deaf)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: b"got 15\n" in place.log() and b"got 2\n" in place.log(), "both signals")


def test_a_service_ignores_the_first_term(place: Place) -> None:
    process = place.up(*place.python_program(NOTES_SIGNALS), options=("--ignore-first-term",))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: b"got 10\n" in place.log(), "what came after it")
    assert b"got 15" not in place.log()
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: b"got 15\n" in place.log(), "the second")


def test_a_service_obeys_int_at_once(place: Place) -> None:
    process = place.up("sh", "-c", "echo up; exec sleep 60", options=("--ignore-first-term",))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT


def test_kill_takes_the_program_along(place: Place) -> None:
    process = place.up("sh", "-c", "trap '' TERM INT HUP; echo up; while :; do sleep 0.1; done")
    program = place.program()
    process.kill()
    wait_for(lambda: not program.alive(), "the end of the program")


def test_the_end_of_the_one_who_entered_the_container_ends_everything(place: Place) -> None:
    caller = subprocess.Popen(["sleep", "60"])
    named = f"{caller.pid} {start_ticks(caller.pid)}"
    shim = place.up("sh", "-c", "echo up; exec sleep 60", env={**os.environ, "TRTDIST_CALLER": named})
    program = place.program()
    caller.kill()
    caller.wait()
    assert shim.wait(60) == 128 + signal.SIGKILL
    assert not program.alive()


@pytest.mark.parametrize("options", [(), ("--ignore-first-term",)])
def test_the_death_of_the_parent_ends_everything(place: Place, options: tuple[str, ...]) -> None:
    program = ("sh", "-c", "trap '' TERM INT HUP; sleep 60 & setsid sleep 61 & echo $! up; wait; wait")
    runs_a_shim = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])"]
    parent = subprocess.Popen([*runs_a_shim, *place.argv(*program, options=options)])
    wait_for(lambda: b"up" in place.log(), "the program")
    wait_for(lambda: place.events(), "its start")
    event = place.events()[0]
    everybody = [ProcessId(event.shim_pid, event.shim_started), place.program(), *_session_of(place)]
    assert all(process.alive() for process in everybody)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(process.alive() for process in everybody), "the end of all")
    end = place.events()[1]
    assert (end.code, end.signal, end.orphan_of) == (None, signal.SIGKILL, parent.pid)


def test_a_program_that_is_killed_is_nobody_s_orphan(place: Place) -> None:
    process = place.up("sh", "-c", "echo up; exec sleep 60")
    place.program().signal(signal.SIGKILL)
    assert process.wait(60) == 128 + signal.SIGKILL
    end = place.events()[1]
    assert (end.code, end.signal, end.orphan_of) == (None, signal.SIGKILL, 0)


def _session_of(place: Place) -> list[ProcessId]:
    """The process that left the program's group and told its pid."""
    found = ProcessId.of(int(place.log().split()[0]))
    assert found is not None
    return [found]


@pytest.mark.parametrize("others", [True, False])
def test_on_another_node_the_last_task_removes_the_folders(tmp_path: Path, others: bool) -> None:
    """That of the run, and the one above it unless it has another run's."""
    folder = tmp_path / "trtdist-0" / "run"
    folder.mkdir(parents=True)
    if others:
        (folder.parent / "other").mkdir()
    environ = {"SLURMD_NODENAME": "n2", "TRTDIST_NODES": "n1 n2", "TRTDIST_LOCAL_DIR": str(folder)}
    first, last = (NodeFolder(environ, name) for name in ("gen.0.0", "gen.0.1"))
    first.leave()
    assert folder.is_dir()
    last.leave()
    assert not folder.exists()
    assert folder.parent.exists() == others


def test_what_the_program_leaves_behind_is_ended(place: Place) -> None:
    code, _ = place.finish(
        "sh", "-c", "sleep 60 & echo $!; setsid sleep 60 & echo $!; (setsid sleep 60 & echo $!); exit 5"
    )
    assert code == 5
    for pid in map(int, place.log().split()):
        assert ProcessId.of(pid) is None


def test_orphans_are_reaped_while_the_program_runs(place: Place) -> None:
    process = place.up("sh", "-c", "(sleep 0.1 &); (sleep 0.1 &); echo up; exec sleep 60")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("this kernel does not list children")
    wait_for(lambda: children.read_text().split() == [str(place.program().pid)], "the end of the orphans")


def test_a_full_disk_harms_no_program(place: Place) -> None:
    (place.run / "logs" / "gen.0.1.log").symlink_to("/dev/full")
    (place.run / "events" / "task.gen.0.1.jsonl").symlink_to("/dev/full")
    code, stderr = place.finish("sh", "-c", "echo one || exit 9; seq 10000 || exit 9; exit 6")
    assert code == 6
    assert stderr.count("\n") == 1
    assert "gen.0.1 goes on" in stderr and "No space left on device" in stderr


def test_output_that_was_lost_is_said_to_be(place: Place) -> None:
    # A limit on the size of its files, which only the shim has, stands for the full disk; it is raised later.
    process = place.up(
        *place.python_program(
            """
        import os, signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        os.write(1, b"up" + b"x" * 998)
        for letter in b"yz":
            signal.sigwait({signal.SIGUSR1})
            os.write(1, bytes([letter]) * 1000)
        signal.sigwait({signal.SIGUSR1})
        """
        )
    )
    wait_for(lambda: len(place.log()) == 1000, "the first output")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
    program = place.program()
    assert program.alive()
    process.send_signal(signal.SIGUSR1)
    # It says so once it has tried to write the rest.
    assert process.stderr is not None and "goes on" in process.stderr.readline()
    assert len(place.log()) == 1500
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: place.log().endswith(b"z" * 1000), "what came later")
    assert b"\n[trtdist: 500 bytes of output are missing: File too large]\nz" in place.log()
    process.kill()
    assert process.communicate(timeout=60)[1] == ""


def test_without_a_run_directory_it_is_one_sentence(place: Place) -> None:
    shutil.rmtree(place.run / "logs")
    code, stderr = place.finish("true")
    assert code == 1
    assert stderr.count("\n") == 1 and "logs/gen.0.1.log" in stderr


def test_the_oldest_python_runs_it(place: Place) -> None:
    python = oldest_python()
    if python is None:
        give_up("there is no python3.9 here")
    place.python = python
    assert place.finish("sh", "-c", "echo hello; exit 3") == (3, "")
    assert place.log() == b"hello\n"
    assert len(place.events()) == 2


def test_it_imports_little(place: Place) -> None:
    bare = _imports([sys.executable, "-I", "-S", "-X", "importtime", "-c", "import os, sys, time"])
    argv = place.argv("true")
    found = _imports([*argv[:3], "-X", "importtime", *argv[3:]])
    assert "ctypes" in found
    assert found - bare <= {"__future__", "_ctypes", "_struct", "struct", "ctypes._endian", "ctypes", "select", "types"}


def _imports(argv: list[str]) -> set[str]:
    """What Python says that it imported."""
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
