"""Ends when the server ends that a launcher was to start, since the launcher may not.

    python -S -m trtdist.supervisor.launched PROGRAM [ARG ...]

`trtllm-llmapi-launch` starts what it is given beside the ranks' own programs and stays with those. Up to 1.0 it waits
for ever once the server has ended, and the server's exit code is lost (tensorrt_llm/llmapi/trtllm-llmapi-launch
020c89e6, cbe4c0ae). So the server's script tells both: it inherits a pipe, whose descriptor $TRTDIST_TOLD names, and
writes "pid N" at its start and "exit CODE" at its end.

The same launchers look for a free port from 10012 on, which rank 0 binds a minute later. Two on a node would find the
same, so they take turns, until the port of each is in use. Who has an abstract socket of a name has the turn: it is
seen by whoever sees the ports, from any container and by any user, and goes with its owner (unix(7)). Where one keeps
it for longer than any launcher may, launchers go on without: two that start at the same time may then clash.
$TRTDIST_LAUNCHES, if set, sets the launchers that have the same apart from all others.

The launchers take OMPI_* away from the server and from what they start after it, to which they say stop with `python3`.
That is MPI without a launcher, which leaves 16 MB in /dev/shm unless it is told where else to have shared memory. So
the first `python3` on PATH is a script that says that and becomes the next one.

Exits with the server's code when that is not 0, else with the launcher's. TERM goes to the server alone, which then
ends the ranks; who is not gone a moment later is left to the shim, which kills whatever this program leaves behind.

Runs in images. Standard library, Python 3.9.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

from trtdist.process import ProcessId
from trtdist.supervisor.free_port import listened_on

__all__ = ["Launched", "Turn", "main", "turn_name"]

_NAME = "trtdist-launches"

# How long a launcher may take to end after its server, and the server and its ranks to end after TERM.
LEAVE_S = 3.0
# How long a launcher may have its turn, and how often it is looked at meanwhile.
TURN_S, LOOK_S = 180.0, 0.2
# Whoever has it for longer does not take turns.
KEPT_S = TURN_S + 20.0
_ADDRESS = b"TLLM_SPAWN_PROXY_PROCESS_IPC_ADDR="
# Where Open MPI 5, and before it 4, has its shared memory. The names of ours are not taken away.
_PYTHON3 = """\
#!/bin/sh
export OMPI_MCA_btl_sm_backing_directory="$TMPDIR" OMPI_MCA_btl_vader_backing_directory="$TMPDIR"
exec "$TRTDIST_PYTHON3" "$@"
"""


class Turn:
    """The right to launch on this node; only the first rank of a server needs it."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._held = _bound(turn_name(environ)) if environ.get("TRTDIST_RANK") == "0" else None
        self._until = time.monotonic() + TURN_S

    @property
    def taken(self) -> bool:
        """Whether others still have to wait for us."""
        return self._held is not None

    def look(self) -> None:
        """Give the turn on when the port of what was launched is in use, or it needs none."""
        if self._held is not None and (time.monotonic() > self._until or _is_bound(_address())):
            self._held.close()
            self._held = None


class Launched:
    """A launcher, and what is known of the server that it starts."""

    def __init__(self, argv: list[str], turn: Turn) -> None:
        self._turn = turn
        self._told, inherited = os.pipe()
        os.set_blocking(self._told, False)
        self._wake = _wake_on_signals()
        environ = {**os.environ, **_with_python3(os.environ), "TRTDIST_TOLD": str(inherited)}
        self._launcher = subprocess.Popen(argv, env=environ, pass_fds=(inherited,))
        os.close(inherited)
        # Nobody may hold the other end any more, and then it is ready for ever.
        self._open = [self._told]
        self._text = b""
        self._server: ProcessId | None = None
        self._code: int | None = None
        self._deadline: float | None = None

    def wait(self) -> int:
        """Stay until the launcher has ended, or its server has and the launcher stays; returns the exit code."""
        while self._launcher.poll() is None and (self._deadline is None or time.monotonic() < self._deadline):
            ready = select.select([*self._open, self._wake], [], [], self._patience())[0]
            if self._told in ready:
                self._listen()
            if self._wake in ready and signal.SIGTERM in os.read(self._wake, 1024):
                self._stop()
            self._turn.look()
        self._listen()
        return self._exit_code()

    def _patience(self) -> float | None:
        if self._turn.taken:
            return LOOK_S
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _listen(self) -> None:
        """Take what the server's script has told."""
        try:
            data = os.read(self._told, 1024)
        except BlockingIOError:
            return
        if not data:
            self._open = []
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            word, _, number = line.partition(b" ")
            if word == b"pid":
                self._server = ProcessId.of(int(number))
            elif word == b"exit":
                self._code, self._server = int(number), None
                self._leave_soon()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.signal(signal.SIGTERM)
        self._leave_soon()

    def _leave_soon(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + LEAVE_S

    def _exit_code(self) -> int:
        of_launcher = self._launcher.poll() or 0
        if self._code:
            return self._code
        return 128 - of_launcher if of_launcher < 0 else of_launcher


def main(argv: list[str]) -> int:
    """Run the launcher that the arguments are; returns the exit code."""
    try:
        return Launched(argv, Turn(dict(os.environ))).wait()
    except OSError as error:
        print(f"trtdist: cannot start {argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return 127


def turn_name(environ: Mapping[str, str]) -> str:
    """The name, in the abstract namespace, of the socket that gives the turn."""
    return _NAME + environ.get("TRTDIST_LAUNCHES", "")


def _with_python3(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables with which `python3` has shared memory of MPI in $TMPDIR; none where that cannot be had."""
    real = environ.get("TRTDIST_PYTHON3") or shutil.which("python3", path=environ.get("PATH"))
    if real is None or not all(environ.get(name) for name in ("PATH", "TMPDIR", "TRTDIST_LOCAL_DIR")):
        return {}
    folder = f"{environ['TRTDIST_LOCAL_DIR']}/launcher"
    with suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        part = f"{folder}/python3.{os.getpid()}"
        with open(part, "w") as file:
            file.write(_PYTHON3)
        os.chmod(part, 0o700)
        # Launchers of several servers may be on this node.
        os.replace(part, f"{folder}/python3")
        return {"PATH": f"{folder}:{environ['PATH']}", "TRTDIST_PYTHON3": real}
    return {}


def _bound(name: str) -> socket.socket | None:
    """The socket of the turn, once nobody else has it; None when somebody keeps it."""
    holder, until = "", time.monotonic() + KEPT_S
    while (held := _bound_now(name)) is None:
        now, found = time.monotonic(), _holder(name)
        if found != holder:
            holder, until = found, now + KEPT_S
        if now > until:
            print(
                f"trtdist: another process has had the turn to launch on this node for {KEPT_S:g} s and has not given"
                f" it on: this launcher starts without, and may find a port that another one finds as well; see whose"
                f" it is with `ss -xap src @{name}`, and end it",
                file=sys.stderr,
                flush=True,
            )
            return None
        time.sleep(LOOK_S)
    return held


def _bound_now(name: str) -> socket.socket | None:
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0{name}")
    except OSError as error:
        held.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return held


def _holder(name: str) -> str:
    """Which socket has the name (proc(5), /proc/net/unix: the inode before the path); "" for none."""
    with open("/proc/net/unix", errors="replace") as file:
        rows = (line.split() for line in file)
        return next((row[-2] for row in rows if row[-1] == f"@{name}"), "")


def _address() -> str:
    """Where rank 0 is to listen, as the processes of our group were told; "" until one was."""
    group = os.getpgid(0)
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getpgid(int(name)) == group:
                with open(f"/proc/{name}/environ", "rb") as file:
                    found = [word for word in file.read().split(b"\0") if word.startswith(_ADDRESS)]
                if found:
                    return found[0][len(_ADDRESS) :].decode()
        except OSError:
            continue  # it has just ended
    return ""


def _is_bound(address: str) -> bool:
    """Whether somebody listens on a `tcp://` address; true for one that is no port."""
    if not address.startswith("tcp://"):
        return bool(address)
    return listened_on(int(address.rpartition(":")[2]))


def _wake_on_signals() -> int:
    """Have TERM and the ends of children put a byte into a pipe; returns the end to read."""
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return wake


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
