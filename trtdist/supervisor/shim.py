"""Wraps one task of a run, so that it is logged, signalled, accounted for and never left behind.

    shim.py --run-dir RUN --step STEP --name NAME [--server NAME --rank N] [--ignore-first-term] -- PROGRAM [ARG ...]
    shim.py --run-dir RUN --step STEP --name NAME --refuse REASON

The program's output goes to logs/NAME.log, with a time index in logs/NAME.idx, its start and end to
events/task.NAME.jsonl in the format of `trtdist.events`. Signals are passed on. The program and whatever descends from
it end when it, the shim, the shim's parent or the process that TRTDIST_CALLER names ("PID START") ends. Exits
with the program's code, 128 + N after signal N.

The output comes through a pipe: a full or slow disk loses lines, and says so, where it would otherwise fail or stall
the engine; times are those of the bytes; and a shim whose program is silent wakes up every five seconds only, to see
whether the supervisor asks what it does (stacks/ask), which look.py writes down.

With --refuse no program runs: the reason is told as an event and on stderr, and the exit code is 1.

Runs as `python -I -S shim.py` on Python 3.9 before every program of a run, so it imports little and nothing of ours.
"""

from __future__ import annotations

# `signal` without its enums, which take a quarter of the time until the program starts.
import _signal as signal  # type: ignore[import-not-found]
import ctypes
import os
import select
import sys
import time

__all__ = ["Log", "NodeFolder", "Shim", "Task", "TaskEvents", "UsageError", "main", "parse"]

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
# A signal of our own: TERM would not tell a parent that dies from one that says TERM.
_PARENT_DIED = signal.SIGRTMIN + 7
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
_CHUNK = 1 << 16
# After little output the pipe fills for a moment, so that a chatty program costs at most 50 wake-ups a second.
_LITTLE, _REST_MS = 1 << 12, 20
_INDEX_S = _REST_MS / 1000
_LEFTOVERS_S, _PARENT_CHECK_MS, _LOOK_S = 2.0, 1000, 5.0


class UsageError(Exception):
    """The arguments are wrong; the message is a sentence."""


class Task:
    """What the arguments say: the task's names, as in `trtdist.events.TaskStarted`, and the program with its own."""

    def __init__(self, values: dict[str, str], ignore_first_term: bool, argv: list[str]) -> None:
        self.run_dir = values["--run-dir"]
        self.step = values["--step"]
        self.name = values["--name"]
        self.server = values["--server"]
        self.rank = int(values["--rank"])
        self.refusal = values["--refuse"]
        self.ignore_first_term = ignore_first_term
        self.argv = argv


def parse(arguments: list[str]) -> Task:
    """The task that the arguments describe; UsageError when they do not."""
    values = {"--run-dir": "", "--step": "", "--name": "", "--server": "", "--rank": "0", "--refuse": ""}
    ignore_first_term = False
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            break
        if argument == "--ignore-first-term":
            ignore_first_term = True
            continue
        if argument not in values:
            raise UsageError(f"{argument!r} is not an option")
        values[argument] = next(rest, "")
    argv = list(rest)
    missing = [name for name in ("--run-dir", "--step", "--name") if not values[name]]
    if missing or not (argv or values["--refuse"]) or not values["--rank"].isdigit() or "/" in values["--name"]:
        raise UsageError("--run-dir, --step, --name (no path) and a program after -- are needed, --rank is a number")
    return Task(values, ignore_first_term, argv)


class _Complaint:
    """Says on stderr that a file cannot be written, once for each shim."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said = False

    def say(self, path: str, error: OSError) -> None:
        if not self._said:
            self._said = True
            _say(f"{self._name} goes on, but {path} cannot be written: {error.strerror}")


class Log:
    """The log of a task and its index: "<offset> <epoch seconds>" lines, at most 50 a second.

    What lies from that offset on was written then or later. Output that cannot be written is dropped, and a line in
    the log says how much is missing as soon as it can be written again.
    """

    def __init__(self, path: str, complaint: _Complaint) -> None:
        self._path = path
        self._complaint = complaint
        self._descriptor = _open(path)
        self._size = os.fstat(self._descriptor).st_size
        self._index: int | None = None
        self._indexed = 0.0
        self._lost = 0
        self._reason = ""

    def write(self, data: bytes) -> None:
        """Append output."""
        now = _now()
        if not 0 <= now - self._indexed < _INDEX_S:
            self._add_to_index(now)
        rest = memoryview(data)
        try:
            if self._lost:
                self._append(f"\n[trtdist: {self._lost} bytes of output are missing: {self._reason}]\n".encode())
                self._lost = 0
            while rest:
                rest = rest[self._append(rest) :]
        except OSError as error:
            self._lost += len(rest)
            self._reason = error.strerror or "unknown reason"
            self._complaint.say(self._path, error)

    def _append(self, data: bytes | memoryview) -> int:
        written = os.write(self._descriptor, data)
        self._size += written
        return written

    def _add_to_index(self, now: float) -> None:
        path = self._path[: -len(".log")] + ".idx"
        self._indexed = now
        try:
            if self._index is None:
                self._index = _open(path)
            os.write(self._index, f"{self._size} {now:.3f}\n".encode())
        except OSError as error:
            self._complaint.say(path, error)


class TaskEvents:
    """Writes the events of a task as `trtdist.events.EventWriter` does."""

    def __init__(self, task: Task, complaint: _Complaint) -> None:
        self._task = task
        self._writer, self._life = f"task.{task.name}", os.environ.get("TRTDIST_LIFE", "")
        self._path = os.path.join(task.run_dir, "events", f"{self._writer}.jsonl")
        self._complaint = complaint

    def started(self, pid: int) -> None:
        """The program runs."""
        task, me = self._task, os.getpid()
        fields = {"step": task.step, "name": task.name, "server": task.server, "rank": task.rank}
        identity = {"host": os.uname().nodename, "pid": pid, "started": _start_ticks(pid)}
        shim = {"shim_pid": me, "shim_started": _start_ticks(me), "slurm_step": _slurm_step()}
        self._write("task_started", {**fields, **identity, **shim})

    def exited(self, pid: int, code: int | None, number: int | None, orphan_of: int) -> None:
        """The program ended, with a code or by a signal."""
        how = {"code": code, "signal": number, "orphan_of": orphan_of}
        self._write("task_exited", {"step": self._task.step, "name": self._task.name, "pid": pid, **how})

    def refused(self) -> None:
        """No program runs."""
        self._write("task_refused", {"step": self._task.step, "name": self._task.name, "reason": self._task.refusal})

    def _write(self, kind: str, fields: dict[str, object]) -> None:
        line = {"time": _now(), "writer": self._writer, "life": self._life, "type": kind, **fields}
        text = ", ".join(f"{_json(key)}: {_json(value)}" for key, value in line.items())
        try:
            descriptor = _open(self._path)
            try:
                os.write(descriptor, f"{{{text}}}\n".encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            self._complaint.say(self._path, error)


class NodeFolder:
    """The run's folder on the disk of a node where no supervisor looks after it: the last task to leave removes it.

    That is any node of a Slurm job but the first. A job that is cancelled can start no step to clean its nodes, so the
    tasks do; those that are killed leave it to the supervisor.
    """

    def __init__(self, environ: dict[str, str], name: str) -> None:
        node, head = environ.get("SLURMD_NODENAME", ""), environ.get("TRTDIST_NODES", "").split(" ")[0]
        folder = environ.get("TRTDIST_LOCAL_DIR", "")
        self._folder = folder if node and head and node != head and os.path.isdir(folder) else ""
        self._marks = os.path.join(folder, ".tasks")
        self._mark = os.path.join(self._marks, name)
        if self._folder:
            os.makedirs(self._marks, 0o700, exist_ok=True)
            os.close(_open(self._mark))

    def leave(self) -> None:
        """Remove the folder, unless another task is there."""
        if not self._folder:
            return
        try:
            os.unlink(self._mark)
            os.rmdir(self._marks)
        except OSError:
            return
        import shutil  # which would take a quarter of the time until the program starts

        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            os.rmdir(os.path.dirname(self._folder))
        except OSError:
            return  # another run of this user is there


class Shim:
    """One program, from its start to the end of everything that it started."""

    def __init__(self, task: Task, parent: int) -> None:
        self._task = task
        self._parent = parent
        complaint = _Complaint(task.name)
        self._log = Log(os.path.join(task.run_dir, "logs", f"{task.name}.log"), complaint)
        self._events = TaskEvents(task, complaint)
        self._folder = NodeFolder(dict(os.environ), task.name)
        self._spares_term = task.ignore_first_term
        self._caller = _caller(os.environ.get("TRTDIST_CALLER", ""))
        self._check_ms: int | None = _PARENT_CHECK_MS if self._caller else None
        self._question = os.path.join(task.run_dir, "stacks", "ask")
        self._asked, self._next_look = 0.0, 0.0
        self._wake = _wake_on_signals()
        self._output, self._input = os.pipe()
        os.set_blocking(self._output, False)
        self._signals = select.poll()
        self._signals.register(self._wake, select.POLLIN)
        self._everything = select.poll()
        self._everything.register(self._wake, select.POLLIN)
        self._everything.register(self._output, select.POLLIN)

    def run(self) -> int:
        """Start the program and stay until its end; returns the exit code."""
        self._pid = _start(self._task.argv, self._input)
        os.close(self._input)
        self._events.started(self._pid)
        self._attend()
        orphan_of = 0 if os.getppid() == self._parent else self._parent
        # Before it is reaped: until then no other group can have its number.
        _kill_group(self._pid)
        status = os.waitpid(self._pid, 0)[1]
        self._drain()
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = None if number is not None else os.WEXITSTATUS(status)
        self._events.exited(self._pid, code, number, orphan_of)
        self._end_leftovers()
        self._drain()
        self._folder.leave()
        return 128 + number if number is not None else os.WEXITSTATUS(status)

    def _attend(self) -> None:
        """Copy output and pass signals on until the program ends."""
        resting = False
        while True:
            poll = self._signals if resting else self._everything
            patience = _REST_MS if resting else self._check_ms or 1000 * _LOOK_S
            ready = [descriptor for descriptor, _ in poll.poll(patience)]
            resting = self._output in ready and self._copy()
            if self._wake in ready and self._take_signals():
                return
            if self._check_ms is not None:
                self._check_parent()
            if time.monotonic() >= self._next_look:
                self._look()

    def _copy(self) -> bool:
        """Copy what the program wrote; says whether it was so little that the next may wait for a moment."""
        data = os.read(self._output, _CHUNK)
        if not data:
            self._everything = self._signals
        else:
            self._log.write(data)
        return 0 < len(data) < _LITTLE

    def _drain(self) -> None:
        """Copy what is left in the pipe, but not for ever: something that is hard to kill may still write to it."""
        for _ in range(64):
            try:
                data = os.read(self._output, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                return
            self._log.write(data)

    def _take_signals(self) -> bool:
        """Act on the signals that came; says whether the program ended."""
        numbers = os.read(self._wake, _CHUNK)
        for number in numbers:
            if number == _PARENT_DIED:
                # Sent as well when only the thread ends that started us; from then on we have to look ourselves.
                self._check_ms = _PARENT_CHECK_MS
            elif number == signal.SIGTERM and self._spares_term and os.getppid() == self._parent:
                self._spares_term = False
            elif number != signal.SIGCHLD:
                os.kill(self._pid, number)
        return signal.SIGCHLD in numbers and self._has_ended()

    def _check_parent(self) -> None:
        gone = self._caller is not None and _stat(self._caller[0])[19:20] != [self._caller[1]]
        if gone or os.getppid() != self._parent:
            _kill_group(self._pid)
            os.kill(self._pid, signal.SIGKILL)

    def _look(self) -> None:
        """Have it written down what the program does when that was asked anew."""
        self._next_look = time.monotonic() + _LOOK_S
        look = os.path.join(os.path.dirname(os.path.abspath(__file__)), "look.py")
        words = [sys.executable, "-I", "-S", look, self._task.run_dir, self._task.step, self._task.name, str(self._pid)]
        try:
            before, self._asked = self._asked, os.stat(self._question).st_mtime
            if self._asked != before:
                os.posix_spawn(words[0], words, os.environ)
        except OSError:
            return  # nobody has asked, or this node has no room for an answer

    def _has_ended(self) -> bool:
        """Whether the program ended, which leaves it to be reaped; reaps the orphans that came to us."""
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid == self._pid:
                return ended is not None
            os.waitpid(ended.si_pid, 0)

    def _end_leftovers(self) -> None:
        """Kill what the program left behind in other process groups: it has come to us, and cannot get away."""
        until = time.monotonic() + _LEFTOVERS_S
        while _reap() and time.monotonic() < until:
            for pid in _children():
                os.kill(pid, signal.SIGKILL)
            if self._signals.poll(50):
                os.read(self._wake, _CHUNK)


def main(arguments: list[str]) -> int:
    """Run the task that the arguments describe; returns the exit code."""
    parent = os.getppid()
    try:
        task = parse(arguments)
        if task.refusal:
            TaskEvents(task, _Complaint(task.name)).refused()
            _say(f"{task.name} {task.refusal}")
            return 1
        _prctl(_PR_SET_PDEATHSIG, _PARENT_DIED)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        shim = Shim(task, parent)
        if os.getppid() != parent:
            raise UsageError(f"{task.name} is not started: whoever started it has just ended")
        return shim.run()
    except UsageError as error:
        _say(str(error))
        return 2
    except OSError as error:
        _say(f"the task cannot be run: {error}")
        return 1


def _caller(text: str) -> tuple[int, str] | None:
    """Who has started the container that we are in: process id and start, where its end does not end ours."""
    pid, _, started = text.partition(" ")
    return (int(pid), started) if pid.isdigit() else None


def _start(argv: list[str], output: int) -> int:
    me = os.getpid()
    pid: int = os.fork()
    if pid == 0:
        try:
            _become(argv, output, me)
        finally:
            os._exit(126)
    try:  # noqa: SIM105 - contextlib takes as long as the rest
        os.setpgid(pid, pid)  # as the child does itself: whoever is first
    except OSError:
        pass
    return pid


def _become(argv: list[str], output: int, shim: int) -> None:
    """Turn the forked child into the program: own process group, bound to the shim, signals as they come."""
    os.setpgid(0, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != shim:
        return
    os.dup2(output, 1)
    os.dup2(output, 2)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and ignoring is inherited
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        _say(f"cannot start {argv[0]}: {error.strerror}")
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _wake_on_signals() -> int:
    """Have every signal that concerns us put its number, as a byte, into a pipe; returns the end to read."""
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    for number in (*_PASSED_ON, signal.SIGCHLD, _PARENT_DIED):
        signal.signal(number, lambda number, frame: None)  # the pipe has it
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return wake


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value}) failed")


def _kill_group(leader: int) -> None:
    try:  # noqa: SIM105
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _reap() -> bool:
    """Reap what has ended; says whether children are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    me = str(os.getpid())
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if _stat(pid)[1:2] == [me]]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on, proc(5); none when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _start_ticks(pid: int) -> int:
    return int(_stat(pid)[19])


def _now() -> float:
    """The time on the clock of the head node, in seconds since the epoch, as `trtdist.events` has it."""
    return time.time() - float(os.environ.get("TRTDIST_CLOCK_AHEAD", "0"))


def _slurm_step() -> str:
    """The step of Slurm's that this is a task of, such as `7.2`."""
    job, step = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_STEP_ID", "")
    return f"{job}.{step}" if job and step else ""


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _say(text: str) -> None:
    try:  # noqa: SIM105
        os.write(2, f"trtdist shim: {text}\n".encode(errors="replace"))
    except OSError:
        pass  # there is nobody left to tell


def _json(value: object) -> str:
    """A value as JSON; importing json would double the time to start."""
    if isinstance(value, str):
        return '"' + "".join(map(_character, value)) + '"'
    return "null" if value is None else repr(value)


def _character(character: str) -> str:
    code = ord(character)
    if 32 <= code < 127 and character not in '"\\':
        return character
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
