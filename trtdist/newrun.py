"""Makes the folder of a run: it appears whole and under a name of its own, or not at all. Standard library, Python
3.9."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from trtdist.rundir import LATEST, RunDir

__all__ = ["make_run", "point_to", "stamped"]


def stamped(name: str, now: float) -> str:
    """The id of a run without its random end: the topology's name and the second, local time, of `now` (epoch)."""
    return time.strftime(f"{name}-%Y%m%d-%H%M%S", time.localtime(now))


def make_run(root: Path, name: str, fill: Callable[[RunDir], None], appeared: Callable[[RunDir], None]) -> RunDir:
    """Fill a folder that nobody sees yet and give it its name, with another random end when that is taken.

    `appeared` is called with what others see from then on; nothing stays when it or `fill` fails. OSError.
    """
    part = root / f".{name}-{secrets.token_hex(8)}.part"
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, part, ignore_errors=True)
        part.mkdir(mode=0o700)
        fill(RunDir(part))
        path = _named(part, name)
        undo.callback(shutil.rmtree, path, ignore_errors=True)
        appeared(RunDir(path))
        undo.pop_all()
    return RunDir(path)


def point_to(run: RunDir) -> None:
    """Have `latest` lead to a run, in one step. OSError."""
    link = run.path.with_name(LATEST)
    part = link.with_name(f".{link.name}.{secrets.token_hex(8)}")
    part.symlink_to(run.run_id)
    try:
        part.replace(link)
    except OSError:
        part.unlink()
        raise


def _named(part: Path, name: str) -> Path:
    while True:
        path = part.with_name(f"{name}-{secrets.token_hex(2)}")
        try:
            os.rename(part, path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        else:
            return path
