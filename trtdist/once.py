"""Puts a folder in its place once and whole, however many ask for it. Standard library, Python 3.9.

It is filled under a hidden name beside its place, checked there, and renamed: nobody sees half of one. What an
interrupted attempt has finished stays for the next.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from trtdist.claim import claimed
from trtdist.errors import InputError, TrtdistError

__all__ = ["Kind", "placed"]


@dataclass(frozen=True)
class Kind:
    """What is put in its place, in words: a `model`, which is there to `stage`, to where `--to` says.

    `missing` tells what a folder lacks to be whole, nothing for one that is.
    """

    what: str
    verb: str
    option: str
    missing: Callable[[Path], Sequence[str]]


def placed(kind: Kind, fill: Callable[[Path], None], folder: Path, name: str, say: Callable[[str], None]) -> Path:
    """Have `name` in `folder`, whole and checked; returns where it is.

    `fill` gets a folder that may hold what an earlier attempt has finished. `say` is told what is waited for.
    InputError when there is something else in its place, or what was filled in is not whole; TrtdistError when it
    cannot be written.
    """
    place = folder / name
    if _there(kind, place):
        return place
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with claimed(folder / f".{name}.claim", lambda who: say(f"waiting for {who}, which {kind.verb}s {name}")):
            if not _there(kind, place):
                _filled(kind, fill, folder / f".{name}.part", place)
    except OSError as error:
        raise _unwritable(kind, folder, error) from error
    return place


def _there(kind: Kind, place: Path) -> bool:
    """Whether it is in its place; InputError for something else."""
    if not os.path.lexists(place):
        return False
    problems = kind.missing(place)
    if problems:
        raise InputError(
            f"{place} is there and no complete {kind.what} ({'; '.join(problems)}): remove it, or use --name"
        )
    return True


def _filled(kind: Kind, fill: Callable[[Path], None], part: Path, place: Path) -> None:
    part.mkdir(exist_ok=True)
    fill(part)
    problems = kind.missing(part)
    if problems:
        raise InputError(f"what was found to {kind.verb} is no complete {kind.what}: {'; '.join(problems)}")
    os.rename(part, place)


def _unwritable(kind: Kind, folder: Path, error: OSError) -> TrtdistError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        again = f"make room and {kind.verb} it again, it goes on where it stopped"
        return TrtdistError(f"no space is left in {folder}: {again}")
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    why = error.strerror or str(error)
    if name and not _below(name, folder):
        return InputError(f"cannot read {name} ({why}): mend it, or take another source")
    what, where = f"{kind.verb} {_a(kind.what)}", f"{name}: " if name else ""
    return InputError(f"cannot {what} in {folder} ({where}{why}): choose another {kind.option}")


def _below(name: str, folder: Path) -> bool:
    """Whether a path is the folder, in it, or above it, where it could not be made."""
    path, place = os.path.abspath(name), os.path.abspath(folder)
    return os.path.commonpath([path, place]) in (path, place)


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"
