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


def test_what_is_no_request_of_this_user_is_passed_over(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    reader = ControlReader(run)
    name = control.ask(run, control.DOWN)
    (tmp_path / "elsewhere").write_text('{"action": "down"}')
    (run.control / "1-link.json").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(run.control / "2-pipe.json")
    (run.control / "3-folder.json").mkdir()
    (run.control / "4-large.json").write_text('{"action": "down", "x": "' + "x" * 70_000 + '"}')
    (run.control / "5-deep.json").write_text("[" * 50_000)
    (run.control / "6-binary.json").write_bytes(bytes(range(256)))
    if os.getuid() == 0:
        (run.control / "7-foreign.json").write_text('{"action": "down"}')
        os.chown(run.control / "7-foreign.json", 65534, 65534)
    assert [request.name for request in reader.poll()] == [name]
