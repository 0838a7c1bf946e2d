"""`trtdist submit` before a job is in the queue, with stand-ins for Slurm's programs that answer as they do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.observe.fake_run import RUN_ID, FakeRun
from trtdist.cli import up
from trtdist.images import RECORD, ImageRecord
from trtdist.rundir import RunDir
from trtdist.slurm.submission import Submission

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


@pytest.mark.parametrize(
    ("slurm_keys", "told"),
    [
        (("time=02:00:00",), "17 min 10 s before the time limit, 1 h 42 min after this one has started"),
        (("handover=30m", "time=02:00:00"), "30 min 0 s before the time limit, 1 h 30 min after this one has started"),
    ],
)
def test_when_the_next_job_is_submitted(
    slurm: Slurm, called: Called, tmp_path: Path, slurm_keys: tuple[str, ...], told: str
) -> None:
    slurm(scontrol="echo PartitionName=batch AllocNodes=ALL")
    given = [word for key in slurm_keys for word in ("--set", f"slurm.{key}")]
    code, out, err = called("submit", str(EXAMPLE), "--handover", "--set", "slurm.nodes=2", *given)
    assert (code, out.endswith(" is job 7\n")) == (0, True), err
    assert err.endswith(f"the next job is submitted {told}; `trtdist status` says when that is\n"), err


def test_how_it_was_submitted_is_kept_for_the_next_job(
    slurm: Slurm, called: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "long")
    slurm(sbatch=f'echo "$*" >{tmp_path}/words; echo 7')
    code, _, err = called("submit", str(EXAMPLE))
    assert code == 0, err
    run = RunDir((tmp_path / "runs" / "latest").resolve())
    kept = Submission.read(run.submission)
    assert kept.environ["SBATCH_PARTITION"] == "long"
    assert (tmp_path / "words").read_text().split() == kept.command(run.path)[1:]
    assert any(option.startswith("--nodes=") for option in kept.options)
    assert run.submission.stat().st_mode & 0o777 == 0o600


def test_a_run_on_one_machine_says_that_it_hands_over_to_none(capsys: pytest.CaptureFixture[str]) -> None:
    quickstart = EXAMPLE.parents[1] / "quickstart.yaml"
    up._Choice(("slurm.handover=auto",), None, True, False).locally(quickstart)
    said = capsys.readouterr().err
    assert said == "trtdist: slurm.handover is for `trtdist submit`: a run on this machine has no time limit\n"
