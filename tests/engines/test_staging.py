"""A model is staged once, whole or not at all, however many ask and however often they are interrupted."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.engines.models import contents, make_model
from tests.observe.fake_run import dead_process
from tests.supervisor.runs import wait_for
from trtdist import claim
from trtdist.engines.model_files import missing
from trtdist.engines.staging import copied, main, stage
from trtdist.errors import InputError, TrtdistError

SECOND = "model-00002-of-00002.safetensors"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_model(tmp_path / "source")


def quiet(sentence: str) -> None:
    raise AssertionError(sentence)


def test_a_copy_is_the_same_and_not_made_twice(source: Path, tmp_path: Path) -> None:
    place = stage(copied(source), tmp_path / "models", "m", quiet)
    assert place == tmp_path / "models" / "m"
    assert contents(place) == contents(source)
    assert os.listdir(tmp_path / "models") == ["m"]
    made = place.stat().st_ino, (place / SECOND).stat().st_ino
    assert stage(copied(source), tmp_path / "models", "m", quiet) == place
    assert (place.stat().st_ino, (place / SECOND).stat().st_ino) == made


def test_links_of_a_hub_cache_are_followed(source: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in source.iterdir():
        (snapshot / path.name).symlink_to(path)
    place = stage(copied(snapshot), tmp_path / "models", "m", quiet)
    assert not any(path.is_symlink() for path in place.iterdir()) and missing(place) == []


def test_a_partial_source_is_refused(source: Path, tmp_path: Path) -> None:
    (source / SECOND).unlink()
    with pytest.raises(InputError, match=SECOND):
        copied(source)


def test_what_was_finished_before_is_kept(source: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"

    def interrupted(part: Path) -> Mapping[str, str]:
        copied(source)(part)
        (part / SECOND).unlink()
        (part / f".{SECOND}.copying").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(TrtdistError, match="goes on where it stopped"):
        stage(interrupted, models, "m", quiet)
    assert sorted(os.listdir(models)) == [".m.part"]
    kept = (models / ".m.part" / "config.json").stat().st_ino
    place = stage(copied(source), models, "m", quiet)
    assert (place / "config.json").stat().st_ino == kept
    assert contents(place) == contents(source)


def test_what_changed_meanwhile_is_copied_again(source: Path, tmp_path: Path) -> None:
    part = tmp_path / "models" / ".m.part"
    part.mkdir(parents=True)
    copied(source)(part)
    (part / "gone.json").write_text("{}")
    (source / "config.json").write_text('{"architectures": ["OtherForCausalLM"]}')
    assert contents(stage(copied(source), part.parent, "m", quiet)) == contents(source)


def test_a_wrong_digest_is_found_and_the_file_copied_again(source: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"

    def spoiled(part: Path) -> Mapping[str, str]:
        sums = copied(source)(part)
        (part / SECOND).write_bytes(b"x" + (part / SECOND).read_bytes()[1:])
        return sums

    with pytest.raises(TrtdistError, match=f"the digest of {SECOND} is wrong"):
        stage(spoiled, models, "m", quiet)
    assert not (models / "m").exists()
    assert contents(stage(copied(source), models, "m", quiet)) == contents(source)


def test_something_else_in_its_place_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "mine").write_text("")
    with pytest.raises(InputError, match="remove it, or use --name"):
        stage(copied(source), tmp_path / "models", "m", quiet)
    assert os.listdir(tmp_path / "models" / "m") == ["mine"]


def test_a_folder_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another --to"):
        stage(copied(source), tmp_path / "file", "m", quiet)


@pytest.fixture
def copies(source: Path, tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Several programs that stage the same model at once."""
    program = [sys.executable, "-m", "trtdist.engines.staging", str(source), str(tmp_path / "models"), "m"]
    found = [subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    yield found
    for process in found:
        process.kill()
        process.communicate()


def test_many_at_once_make_one(copies: list[subprocess.Popen[str]], source: Path, tmp_path: Path) -> None:
    ends = [process.communicate(timeout=60) for process in copies]
    assert [process.returncode for process in copies] == [0] * 4, ends
    assert {out.split(": ")[1].strip() for out, _ in ends} == {str(tmp_path / "models" / "m")}
    assert contents(tmp_path / "models" / "m") == contents(source)
    assert os.listdir(tmp_path / "models") == ["m"]


def test_the_program_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), str(tmp_path), "m"]) == 2
    assert "is no complete model: it cannot be read" in capsys.readouterr().err


def holder(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1, "token": "t", **fields}))


def test_the_claim_of_a_process_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    gone = dead_process()
    for each in (path, tmp_path / "claim.0123"):
        holder(each, host=os.uname().nodename, pid=gone.pid, started=gone.started)
    with claim.claimed(path, quiet):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_nobody_touches_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    holder(path)
    old = path.stat().st_mtime - claim.EXPIRY - 5
    os.utime(path, (old, old))
    with claim.claimed(path, quiet):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_fresh_claim_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    holder(path, pid=17)
    told: list[str] = []
    entered = threading.Event()

    def enter() -> None:
        with claim.claimed(path, told.append):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    wait_for(lambda: bool(told), 60, "the word about who is waited for")
    assert told == ["process 17 on elsewhere"] and not entered.is_set()
    path.unlink()
    thread.join(60)
    assert entered.is_set() and list(tmp_path.iterdir()) == []
