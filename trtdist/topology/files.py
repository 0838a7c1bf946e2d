"""Reading a file that a user names, whatever it turns out to be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from trtdist.topology.diagnostics import Origin, Source
from trtdist.topology.problems import Problems, shown

__all__ = ["MAX_BYTES", "read_text"]

MAX_BYTES = 1 << 20


def read_text(path: Path, order: int, problems: Problems) -> tuple[str, Source]:
    """The text of a regular file of UTF-8, not larger than MAX_BYTES, with what names it in messages."""
    source = Source(shown(str(path))[1:-1] if not str(path).isprintable() else str(path), order)
    try:
        data = _read(path, source, problems)
    except FileNotFoundError:
        problems.fatal("TRT001", "there is no such file", Origin(source))
    except OSError as error:
        problems.fatal("TRT001", f"cannot be read: {error.strerror or error}", Origin(source))
    except ValueError:
        problems.fatal("TRT001", "is no file name: it holds a NUL byte", Origin(source))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        byte = f"the byte 0x{data[error.start]:02x}"
        problems.fatal(
            "TRT003", f"holds {byte}, which is no UTF-8; save the file as UTF-8", Origin(source, line, column)
        )
    return text, Source(source.name, order, tuple(text.splitlines()))


def _read(path: Path, source: Source, problems: Problems) -> bytes:
    # A pipe would block the open, and a device would not end.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            problems.fatal("TRT001", "is a directory; name the YAML file in it", Origin(source))
        if not stat.S_ISREG(mode):
            problems.fatal("TRT001", "is no regular file", Origin(source))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        problems.fatal("TRT002", f"is larger than {MAX_BYTES >> 20} MiB, so this is no topology", Origin(source))
    return data
