"""What tests of commands share: servers for the commands that talk to a run, and calling `trtdist` in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serving.conftest import etcd_server, namespace, nats_server
from trtdist.cli.main import main

__all__ = ["called", "etcd_server", "namespace", "nats_server"]


@pytest.fixture
def called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Calls `trtdist` in a folder of its own: exit code, output, errors."""
    monkeypatch.setenv("TRTDIST_SITE", "")
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trtdist", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return (ended.value.code, *capsys.readouterr())

    return run
