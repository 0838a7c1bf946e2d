"""Finding runs by what a person types."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trtdist.errors import InputError
from trtdist.observe.runs import find_run, list_runs, topology_name

OLD = "tiny-20261124-101500-0001"
NEW = "tiny-20261124-101501-0002"
OTHER = "big-one-20261123-090000-abcd"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    for run_id in (OLD, NEW, OTHER):
        (tmp_path / run_id).mkdir()
        (tmp_path / run_id / "plan.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    return {"TRTDIST_RUNS": str(tmp_path)}


def test_newest_first_and_nothing_else(environ: dict[str, str]) -> None:
    assert [run.run_id for run in list_runs(environ)] == [NEW, OLD, OTHER]


def test_runs_of_one_second_are_ordered_by_when_they_were_written(tmp_path: Path) -> None:
    for run_id in ("a-20261124-101500-ffff", "a-20261124-101500-0000"):
        (tmp_path / run_id).mkdir()
        (tmp_path / run_id / "topology.yaml").write_text("")
    os.utime(tmp_path / "a-20261124-101500-ffff" / "topology.yaml", ns=(1, 1))
    assert find_run(None, {"TRTDIST_RUNS": str(tmp_path)}).run_id == "a-20261124-101500-0000"


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, NEW),
        ("latest", NEW),
        (OLD, OLD),
        ("tiny", NEW),
        ("big-one", OTHER),
        ("big", OTHER),
        ("tiny-20261124-101500", OLD),
    ],
)
def test_what_a_person_may_type(environ: dict[str, str], selector: str | None, expected: str) -> None:
    assert find_run(selector, environ).run_id == expected


def test_the_link_decides_which_is_latest(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(OTHER)
    assert find_run(None, environ).run_id == OTHER


def test_a_link_to_a_run_that_was_deleted_is_ignored(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("gone-20261124-101500-0001")
    assert find_run(None, environ).run_id == NEW


def test_a_folder_without_a_slash_comes_last(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("out2", "tiny"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").touch()
    assert find_run("out2", environ).path == tmp_path / "out2"
    assert find_run("out2", {"TRTDIST_RUNS": str(tmp_path / "none")}).path == tmp_path / "out2"
    assert find_run("tiny", environ).run_id == NEW


def test_a_folder(environ: dict[str, str], tmp_path: Path) -> None:
    assert find_run(str(tmp_path / OLD), {}).path == tmp_path / OLD
    with pytest.raises(InputError, match=r"has no plan\.json"):
        find_run(str(tmp_path / "notes"), environ)


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("tiny-", f"the start of 2 runs: {NEW}, {OLD}; write more"),
        ("tinny", "did you mean tiny"),
        ("zzz", f"no run matches 'zzz'; there are {NEW}"),
    ],
)
def test_what_cannot_be_found_is_said(environ: dict[str, str], selector: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_run(selector, environ)


def test_no_runs_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no run under .*trtdist up FILE"):
        find_run(None, {"TRTDIST_RUNS": str(tmp_path / "none")})


def test_the_runs_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is TRTDIST_RUNS right"):
        list_runs({"TRTDIST_RUNS": str(tmp_path / "file")})


def test_the_name_in_an_id() -> None:
    assert topology_name(OTHER) == "big-one"
    assert topology_name("tiny") == ""
