"""Paths within a root file system, as a process whose root it is would see them. Standard library, Python 3.9."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["inside", "resolved"]

_MAX_LINKS = 40


def inside(root: Path, name: str) -> Path:
    """Where a path of an image is below `root`, links followed as if `root` were /; it never leads out.

    OSError when links lead in a circle.
    """
    waiting = [part for part in name.split("/") if part not in ("", ".")][::-1]
    found: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            found = found[:-1]
            continue
        path = root.joinpath(*found, part)
        if not path.is_symlink():
            found.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(f"links lead in a circle: {path}")
        target = os.readlink(path)
        found = [] if target.startswith("/") else found
        waiting += [part for part in target.split("/") if part not in ("", ".")][::-1]
    return root.joinpath(*found)


def resolved(root: Path, name: str) -> Path | None:
    """The file or folder that a path of an image leads to; None when there is none."""
    try:
        path = inside(root, name)
    except OSError:
        return None
    return path if path.exists() else None
