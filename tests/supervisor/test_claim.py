"""A claim that changes hands while somebody waits for it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from trtdist.claim import claimed
from trtdist.process import start_ticks


def held(path: Path) -> None:
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": start_ticks(os.getpid()), "token": "x"}
    path.write_text(json.dumps(owner))


def test_who_was_taken_for_gone_while_it_waited_still_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    held(path)
    told = []

    def swept(who: str) -> None:
        told.append(who)
        for waiting in tmp_path.glob("claim*"):
            waiting.unlink()

    with claimed(path, swept):
        assert path.exists()
    assert told == [f"process {os.getpid()} on {socket.gethostname()}"]
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_was_given_back_is_not_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another's already when it is looked at again."""
    path = tmp_path / "claim"
    held(path)
    link, renamed = os.link, []

    def given_back_after_it_was_in_the_way(source: Path, target: Path) -> None:
        try:
            link(source, target)
        except FileExistsError:
            path.unlink()
            raise

    monkeypatch.setattr(os, "link", given_back_after_it_was_in_the_way)
    monkeypatch.setattr(Path, "rename", lambda source, target: renamed.append(source))
    with claimed(path, pytest.fail):
        pass
    assert renamed == [] and list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_ends_the_wait(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "claim"
    path.parent.mkdir()
    held(path)

    def removed(who: str) -> None:
        for left in path.parent.iterdir():
            left.unlink()
        path.parent.rmdir()

    with pytest.raises(FileNotFoundError), claimed(path, removed):
        pass
