"""Stands in for the rank shim: tells start and end of a program in the run's events, forwards signals, dies with its
parent. Usage: fake_shim.py RUN_DIR STEP NAME -- PROGRAM..."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

FORWARDED = {signal.SIGTERM, signal.SIGINT}
# As the shim does: what comes before there is a program to forward it to waits.
signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)

sys.path.insert(0, str(Path(__file__).parents[2]))

from trtdist.events import EventWriter, TaskExited, TaskStarted  # noqa: E402
from trtdist.process import ProcessId  # noqa: E402


def bind(number: int) -> None:
    ctypes.CDLL(None).prctl(1, number, 0, 0, 0)


def prepare() -> None:
    bind(signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)


def main(run: Path, step: str, name: str, argv: list[str]) -> int:
    bind(signal.SIGKILL)
    writer = EventWriter(run / "events" / f"task.{name}.jsonl")
    with open(run / "logs" / f"{name}.log", "ab") as log:
        child = subprocess.Popen(argv, stdout=log, stderr=log, preexec_fn=prepare)
    for number in FORWARDED:
        signal.signal(number, lambda number, frame: child.send_signal(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    me, it = ProcessId.of(os.getpid()), ProcessId.of(child.pid)
    assert me is not None
    started = it.started if it is not None else 0
    writer.write(TaskStarted(step, name, "", 0, "here", child.pid, started, me.pid, me.started))
    code = child.wait()
    writer.write(TaskExited(step, name, child.pid, code if code >= 0 else None, -code if code < 0 else None))
    writer.close()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[5:]))
