"""`trtdist submit` before a job is in the queue, with stand-ins for Slurm's programs that answer as they do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.observe.fake_run import RUN_ID, FakeRun
from trtdist.images import RECORD, ImageRecord

EXAMPLE = Path(__file__).parents[2] / "examples" / "slurm" / "disagg-2nodes.yaml"
NO_ACCOUNTS = "echo 'sacctmgr: error: slurm_persist_conn_open_without_init: failed' >&2; exit 1"

Called = Callable[..., tuple[int, str, str]]
Slurm = Callable[..., None]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Puts programs that run a line of shell first on PATH; sinfo shows four nodes, and sbatch takes everything."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("TRTDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TRTDIST_IMAGES", str(tmp_path / "images"))

    def answer(**programs: str) -> None:
        for name, line in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / name).chmod(0o755)

    answer(sinfo="echo 'batch|up|infinite|4|32|16000|gpu:8'", sbatch="echo 7", sacctmgr=NO_ACCOUNTS)
    return answer


def runs(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "runs").iterdir()}


@pytest.mark.parametrize("before", [True, False])
def test_of_a_job_that_slurm_refuses_nothing_stays(slurm: Slurm, called: Called, tmp_path: Path, before: bool) -> None:
    slurm(sbatch="echo 'sbatch: error: Invalid qos specification' >&2; exit 1")
    (tmp_path / "runs").mkdir()
    if before:
        FakeRun.create(tmp_path / "runs").verdict()
        (tmp_path / "runs" / "latest").symlink_to(RUN_ID)
    code, out, err = called("submit", str(EXAMPLE))
    assert (code, out) == (2, "")
    assert err.startswith("trtdist: Slurm refuses the job: sbatch: Invalid qos specification; it asks for --job-name=")
    assert runs(tmp_path) == ({RUN_ID, "latest"} if before else set())
    assert not before or os.readlink(tmp_path / "runs" / "latest") == RUN_ID


def test_a_job_that_slurm_may_have_taken_stays(slurm: Slurm, called: Called, tmp_path: Path) -> None:
    slurm(sbatch="echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1")
    code, _, _ = called("submit", str(EXAMPLE))
    assert code == 4
    assert (tmp_path / "runs" / "latest" / "verdict.json").exists()


@pytest.mark.parametrize(
    ("sacctmgr", "code", "words"),
    [
        (NO_ACCOUNTS, 0, ""),
        ("echo physics", 0, ""),
        (
            'case "$*" in *"show account"*) ;; *) echo "chemistry|chemistry" ;; esac',
            2,
            "trtdist: slurm.account: this cluster has no account physics; set it to one of yours: chemistry\n",
        ),
        ("true", 2, "this cluster has no account physics; ask its administrators for one, or leave it out\n"),
    ],
)
def test_an_account(slurm: Slurm, called: Called, tmp_path: Path, sacctmgr: str, code: int, words: str) -> None:
    slurm(sacctmgr=sacctmgr)
    ended, _, err = called("submit", str(EXAMPLE), "--set", "slurm.account=physics")
    assert (ended, err.endswith(words)) == (code, True), err
    assert (tmp_path / "runs").exists() == (code == 0)


def test_what_nodes_may_have_is_warned_of(slurm: Slurm, called: Called, tmp_path: Path) -> None:
    within = ("--set", "container.runtime=enroot", "--set", "container.image=/nowhere/at/all.sqsh")
    code, out, err = called("submit", str(EXAMPLE), *within, "--set", "container.mounts=['/nowhere/data:/data']")
    assert (code, " is job 7\n" in out) == (0, True), err
    elsewhere = "nodes may have it: `trtdist doctor FILE --nodes` looks there\n"
    assert f"trtdist: there is no /nowhere/data to mount here; {elsewhere}" in err
    assert f"trtdist: /nowhere/at is not on this machine; {elsewhere}" in err


def test_an_image_that_charliecloud_could_not_find(slurm: Slurm, called: Called, tmp_path: Path) -> None:
    there = tmp_path / "images" / "trtllm"
    there.mkdir(parents=True)
    (there / RECORD).write_text(ImageRecord("", "", "squashfs", 4, "", "", "").to_json())
    (there / "image.sqsh").write_bytes(b"hsqs")
    code, out, err = called(
        "submit", str(EXAMPLE), "--set", "container.runtime=charliecloud", "--set", "container.image=trtlm"
    )
    told = f"trtdist: there is no image trtlm in {tmp_path}/images, which has trtllm (import it with "
    assert (code, out, err.startswith(told)) == (2, "", True), err
    assert not (tmp_path / "runs").exists()
