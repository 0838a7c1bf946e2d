"""A topology file of the test's own text, and the codes that checking it gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trtdist.topology import Checked, check

BASE = "name: demo\nmodel: org/model\n"
# No site profile, whatever the machine has.
ENVIRON = {"TRTDIST_SITE": "", "HOME": "/home/somebody"}


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., Checked]:
    """Checks a text as `cluster.yaml` under overrides."""

    def run(text: str | bytes, *overrides: str) -> Checked:
        path = tmp_path / "cluster.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return check(path, overrides=overrides, environ=ENVIRON)

    return run


@pytest.fixture
def told(checked: Callable[..., Checked]) -> Callable[..., list[str]]:
    """The problems of a text, as lines that begin with `line:column` (or `--set ...`)."""

    def run(text: str | bytes, *overrides: str) -> list[str]:
        found = checked(text, *overrides).diagnostics
        return [str(diagnostic).partition("cluster.yaml:")[2].lstrip() or str(diagnostic) for diagnostic in found]

    return run
