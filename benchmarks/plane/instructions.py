"""Instructions that programs execute, as `valgrind --tool=cachegrind` counts them: other load does not change them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from subprocess import PIPE

__all__ = ["instructions"]

_VALGRIND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")


def instructions(*programs: Sequence[str]) -> Iterator[int]:
    """Of each of some Python programs, without what the kernel does for it; they run at the same time."""
    environ = {**os.environ, "PYTHONHASHSEED": "0"}
    argvs = [[*_VALGRIND, sys.executable, *program] for program in programs]
    started = [subprocess.Popen(argv, env=environ, stdout=PIPE, stderr=PIPE, text=True) for argv in argvs]
    for one in started:
        _, said = one.communicate()
        counted = re.search(r"I\s+refs:\s+([\d,]+)", said)
        if one.returncode or counted is None:
            raise SystemExit(f"valgrind failed: {said[-2000:]}")
        yield int(counted[1].replace(",", ""))
