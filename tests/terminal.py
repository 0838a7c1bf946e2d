"""A program on a terminal of its own, as somebody at a keyboard has it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

CTRL_C = "\x03"


class Terminal:
    """The far side of the terminal: types, and sees what is shown."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self._process = process
        self.shown = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._descriptor, text.encode())

    def wait_for(self, words: str, seconds: float, times: int = 1) -> str:
        """What was shown from the start to these words; a failure when they are not there so often in time."""
        end = time.monotonic() + seconds
        while self.shown.count(words) < times:
            left = end - time.monotonic()
            if left <= 0 or not self._read(left):
                pytest.fail(f"no {words!r} within {seconds:g} s in:\n{self.shown}")
        return self.shown[: self.shown.index(words) + len(words)]

    def ends(self, seconds: float) -> int:
        """The exit code of the program; a failure when it does not end in time."""
        end = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < end and self._read(0.1):
            pass
        return self._process.wait(max(0.1, end - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        """Take what comes next; says whether anything may still come."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._descriptor, 1 << 16)
        except OSError:
            # EIO: the last program on it has ended.
            return False
        self.shown += data.decode("utf-8", "replace")
        return True


@contextlib.contextmanager
def on_terminal(argv: Sequence[str], folder: Path) -> Iterator[Terminal]:
    """Run a program in a folder, as the leader of a session with a terminal; in the end it is killed if it still runs.

    What it started has to end with its terminal, which closes then.
    """
    ours, theirs = os.openpty()
    try:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        try:
            yield Terminal(ours, process)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(ours)
