"""`trtdist prune` over run directories that no run wrote."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.observe.fake_run import RUN_ID, FakeRun
from trtdist.cli.prune import command
from trtdist.errors import InputError


def prune(*args: str) -> list[str]:
    found = CliRunner().invoke(command, args, catch_exceptions=False)
    assert found.exit_code == 0
    return found.output.splitlines()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that is up, one that just ended, one that ended long ago, and one that left a process behind."""
    monkeypatch.setenv("TRTDIST_RUNS", str(tmp_path))
    FakeRun.create(tmp_path).ready()
    FakeRun.create(tmp_path, run_id="new-20261124-101600-0001").verdict(time=time.time())
    FakeRun.create(tmp_path, run_id="old-20261124-101400-0002").verdict(time=7.0)
    left = FakeRun.create(tmp_path, run_id="left-20261124-101300-0003")
    left.start("gen.0.0")
    left.verdict(time=7.0)
    return tmp_path


def names(runs: Path) -> set[str]:
    return {path.name.split("-")[0] for path in runs.iterdir()}


def test_only_what_has_ended_is_removed(runs: Path) -> None:
    (runs / "somebody-elses").mkdir()
    both = ["old-20261124-101400-0002", "new-20261124-101600-0001"]
    assert prune("--dry-run") == both
    assert names(runs) == {"tiny", "new", "old", "left", "somebody"}
    assert prune() == both
    assert names(runs) == {RUN_ID.split("-")[0], "left", "somebody"}


def test_only_what_is_older(runs: Path) -> None:
    assert prune("--older-than", "1h") == ["old-20261124-101400-0002"]
    assert "new" in names(runs)
    with pytest.raises(InputError, match="--older-than 'soon' is no time"):
        prune("--older-than", "soon")


def test_latest_leads_to_what_is_left(runs: Path) -> None:
    (runs / "latest").symlink_to("new-20261124-101600-0001")
    prune()
    assert (runs / "latest").readlink() == Path(RUN_ID)
    shutil.rmtree(runs / RUN_ID)
    shutil.rmtree(runs / "left-20261124-101300-0003")
    FakeRun.create(runs, run_id="last-20261124-101700-0004").verdict(time=7.0)
    (runs / "latest").unlink()
    (runs / "latest").symlink_to("last-20261124-101700-0004")
    prune()
    assert not (runs / "latest").is_symlink()
