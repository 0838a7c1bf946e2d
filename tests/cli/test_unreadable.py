"""A topology that may not be read is told alike by every command that takes one."""

from __future__ import annotations

import errno
import importlib
import os
from pathlib import Path

import pytest
from click.testing import CliRunner


@pytest.mark.parametrize("name", ["up", "submit", "validate", "plan", "render"])
def test_it_is_a_problem_with_a_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # Root, who may run the tests, reads everything: the refusal has to be made.
    def refuse(path: object, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    file = tmp_path / "cluster.yaml"
    file.touch()
    more = [str(tmp_path / "out")] if name == "render" else []
    command = importlib.import_module(f"trtdist.cli.{name}").command
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRTDIST_SITE", raising=False)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != file)
    monkeypatch.setattr("trtdist.topology.files.os.open", refuse)
    done = CliRunner().invoke(command, [str(file), *more])
    monkeypatch.undo()
    assert f"{file}: error[TRT001]" in f"{done.output} {done.exception}"
