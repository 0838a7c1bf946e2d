"""Puts a whole model where jobs read it, once, however many ask for it. Standard library, Python 3.9.

`python -m trtdist.engines.staging SOURCE FOLDER NAME` copies it on the node where it runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Callable

from trtdist.engines.model_files import missing, read_sums
from trtdist.errors import InputError, TrtdistError
from trtdist.once import Kind, placed

__all__ = ["Fill", "copied", "main", "stage", "wrong_sums"]

Fill = Callable[[Path], Mapping[str, str]]
"""Fills a folder, which may hold what an earlier attempt has finished, and returns digests of its files (SHA-256)."""

_MODEL = Kind("model", "stage", "--to", missing)
_CHUNK = 8 * 1024 * 1024


def stage(fill: Fill, folder: Path, name: str, say: Callable[[str], None]) -> Path:
    """Have the model `name` in `folder`, complete and checked; returns its folder. Errors as `trtdist.once.placed`."""

    def checked(part: Path) -> None:
        sums = fill(part)
        wrong = wrong_sums(part, sums)
        for each in wrong:
            (part / each).unlink(missing_ok=True)
        if wrong:
            raise TrtdistError(f"the digest of {', '.join(wrong)} is wrong: stage it again, or get the source again")

    return placed(_MODEL, checked, folder, name, say)


def copied(source: Path) -> Fill:
    """Copies the folder of a model; InputError at once when it is not complete itself."""
    problems = missing(source)
    if problems:
        raise InputError(f"{source} is no complete model: {'; '.join(problems)}")

    def fill(part: Path) -> Mapping[str, str]:
        sums = read_sums(source)
        names = list(_files(source))
        for left in part.rglob(".*.copying"):
            left.unlink()
        for name in set(_files(part)) - set(names):
            (part / name).unlink()
        waiting = [name for name in names if not _finished(source / name, part / name)]
        _require_space(part, sum((source / name).stat().st_size for name in waiting))
        for name in waiting:
            _copy(source / name, part / name)
        return sums

    return fill


def wrong_sums(folder: Path, sums: Mapping[str, str]) -> list[str]:
    """Files whose digest is another than the one that is given for it; absent ones are among them."""
    return [name for name, digest in sums.items() if not _matches(folder / name, digest)]


def _files(folder: Path) -> Iterator[str]:
    """The files of a model by path in its folder; what is hidden belongs to the tools that fetched it."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(root, name), folder)


def _finished(source: Path, target: Path) -> bool:
    """Whether a file was copied: its time is set as the last thing."""
    try:
        there, wanted = target.stat(), source.stat()
    except FileNotFoundError:
        return False
    return (there.st_size, there.st_mtime_ns // 1000) == (wanted.st_size, wanted.st_mtime_ns // 1000)


def _copy(source: Path, target: Path) -> None:
    """Copy a file so that it has its name only when all of it is on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.copying")
    status = source.stat()
    with source.open("rb") as reader, part.open("wb") as writer:
        shutil.copyfileobj(reader, writer, _CHUNK)
        writer.flush()
        os.fsync(writer.fileno())
    if part.stat().st_size != status.st_size:
        raise TrtdistError(f"{source} changed while it was copied: stage it again")
    os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns))
    part.replace(target)


def _matches(path: Path, digest: str) -> bool:
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_CHUNK):
                found.update(block)
    except FileNotFoundError:
        return False
    return found.hexdigest() == digest


def _require_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        sizes = f"{free >> 20} MiB free and {wanted >> 20} MiB are to be copied"
        raise TrtdistError(f"{folder.parent} has {sizes}: make room")


def main(arguments: list[str]) -> int:
    """Copy a model on this node; says where it is, or what is wrong, and returns the exit code."""
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    source, folder, name = arguments

    def say(sentence: str) -> None:
        print(f"{node}: {sentence}", file=sys.stderr, flush=True)

    try:
        place = stage(copied(Path(source)), Path(folder), name, say)
    except TrtdistError as error:
        say(str(error))
        return error.exit_code
    print(f"{node}: {place}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
