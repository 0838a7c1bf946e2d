"""Requests to the supervisor, also on a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from trtdist.rundir import RunDir
from trtdist.supervisor import control
from trtdist.supervisor.control import ControlReader, Request


def test_each_request_is_found_once(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    reader = ControlReader(run)
    assert reader.poll() == []
    name = control.ask(run, control.DOWN, 3.0)
    assert reader.poll() == [Request(name, "down", 3.0)]
    (run.control / "1-2.json").write_text("nonsense")
    assert reader.poll() == []


def test_a_request_that_finds_no_room_for_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(control, "write_atomic", full)
    run = RunDir(tmp_path)
    name = control.ask(run, control.DOWN, 3.0)
    assert (run.control / name).stat().st_size == 0
    assert ControlReader(run).poll() == [Request(name, "down", None)]
