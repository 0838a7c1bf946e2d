"""A normal user, also where tests run as root."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["somebody"]

_NOBODY = 65534


@contextmanager
def somebody() -> Iterator[Path]:
    """Be a normal user for a while, with a folder of one's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o1777)
        before = os.getresuid()
        if before[1] == 0:
            os.setresuid(_NOBODY, _NOBODY, 0)
        try:
            yield Path(name)
        finally:
            os.setresuid(*before)
