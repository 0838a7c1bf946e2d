"""Standard output that takes any text, and whose reader may leave."""

from __future__ import annotations

import os
import sys

__all__ = ["nobody_reads", "write"]


def write(text: str) -> None:
    """Write at once; what the terminal's encoding cannot carry is written as an escape. BrokenPipeError."""
    out = sys.stdout.buffer
    out.write(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
    out.flush()


def nobody_reads() -> None:
    """Let standard output lead nowhere after an error in writing to it.

    What is still buffered cannot be written either, and the interpreter would complain at its end.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
