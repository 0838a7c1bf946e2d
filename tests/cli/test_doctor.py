"""`trtdist doctor` on one machine, and the part of it that `up` and `submit` run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.containers.small_images import small_root
from tests.house.source import ROOT
from tests.images import program_or_skip
from tests.somebody import somebody
from trtdist.cli.doctor_hello import hello_command, hello_options
from trtdist.cli.main import cli
from trtdist.containers.image_formats import here
from trtdist.errors import TrtdistError
from trtdist.topology import load

QUICKSTART = ROOT / "examples" / "quickstart.yaml"
DISAGGREGATED = ROOT / "examples" / "slurm" / "disagg-2nodes.yaml"
OTHER = "aarch64" if here() == "x86_64" else "x86_64"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TRTDIST_IMAGES", str(tmp_path / "images"))
    return tmp_path


def trtdist(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def within(image: Path) -> tuple[str, ...]:
    return ("--set", "container.runtime=charliecloud", "--set", f"container.image={image}")


def test_one_machine_that_is_well(place: Path) -> None:
    done = trtdist("doctor", QUICKSTART, "--local", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["version"], told["exit_code"], told["nodes"]) == (1, 0, [])
    assert not (place / "runs").exists()


@pytest.mark.parametrize("how", ["missing", "empty", "cut off", "of another architecture", "partly imported"])
def test_an_image_that_cannot_be_used(place: Path, how: str) -> None:
    image, words = place / "image.sqsh", ""
    if how == "missing":
        words = f"there is no image {image}"
    elif how == "empty":
        image.mkdir()
        words = f"{image} is no root file system"
    elif how == "cut off":
        image.write_bytes(b"hsqs" + bytes(36) + (1 << 20).to_bytes(8, "little") + bytes(100))
        words = f"the image {image} was cut off: it has 148 bytes of 1048576"
    elif how == "partly imported":
        record = {"source": "", "source_digest": "", "format": "squashfs", "size": 9, "digest": "", "imported": ""}
        image = place / "images" / "trtllm" / "image.sqsh"
        image.parent.mkdir(parents=True)
        (image.parent / "image.json").write_text(json.dumps({**record, "architecture": here()}))
        image.write_bytes(b"hsqs")
        words = f"the image {image} is not whole"
    else:
        image = small_root(place / "image", machine=OTHER)
        words = f"is made for {OTHER}"
    done = trtdist("doctor", QUICKSTART, "--local", *within(image))
    assert done.exit_code in (2, 4), done.output  # charliecloud may be missing, too
    assert words.partition(": ")[0] in done.stdout
    with pytest.raises(TrtdistError, match="--no-check starts it all the same") as refused:
        CliRunner().invoke(cli, ["up", str(QUICKSTART), "--local", *within(image)], catch_exceptions=False)
    assert words.partition(": ")[0] in str(refused.value)
    assert refused.value.exit_code == 2
    assert not (place / "runs").exists()


@pytest.mark.parametrize("command", ["up", "submit"])
def test_a_squashfs_without_the_driver_is_refused_before_it_is_queued(place: Path, command: str) -> None:
    """Charliecloud brings none; an engine without GPUs needs none."""
    program_or_skip("mksquashfs", "unsquashfs")
    root, image = small_root(place / "root", machine=here()), place / "image.sqsh"
    subprocess.run(["mksquashfs", root, image, "-quiet", "-no-progress"], capture_output=True, check=True)
    words = [command, str(DISAGGREGATED), *within(image), "--set", "engine=tensorrt_llm", "--set", "model=/models/m"]
    with pytest.raises(TrtdistError, match="has no libcuda, and charliecloud brings none into a squashfs") as refused:
        CliRunner().invoke(cli, words, catch_exceptions=False)
    assert f"trtdist image import {image} --runtime charliecloud" in str(refused.value)
    assert refused.value.exit_code == 2 and not (place / "runs").exists()
    found = json.loads(trtdist("doctor", QUICKSTART, "--local", "--json", *within(image)).stdout)["findings"]
    assert [each["level"] for each in found if each["code"] == "image"] == ["ok"]


def test_a_runs_folder_that_cannot_be(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").touch()
    monkeypatch.setenv("TRTDIST_RUNS", str(place / "file" / "runs"))
    done = trtdist("doctor", "--local")
    assert done.exit_code == 2
    assert "no run can be made in" in done.stdout


def test_nodes_are_those_of_a_file() -> None:
    for words in (("--nodes",), ("--nodes", "--local", str(QUICKSTART))):
        done = trtdist("doctor", *words)
        assert isinstance(done.exception, TrtdistError)
        assert "give FILE with it" in str(done.exception)


def test_a_machine_without_slurm_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = trtdist("doctor", QUICKSTART)
    assert done.exit_code == 4
    assert "srun is not on PATH" in done.stdout.splitlines()[0]


def test_ranks_that_greet_each_other_are_given_all_mounts_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srun = place / "srun"
    srun.write_text("#!/bin/sh\necho --container-image\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(place), prepend=":")
    container = ("container.runtime=pyxis", "container.image=/i.sqsh", 'container.mounts=["/a:/b:ro"]')
    options = hello_options(load(QUICKSTART, overrides=container, environ={}), place / "hello")
    mounts = [word for word in options if word.startswith("--container-mounts")]
    assert mounts == [f"--container-mounts={place}/hello:{place}/hello,/a:/b:ro"]


def test_ranks_on_the_host_import_nothing_from_where_they_start(place: Path) -> None:
    (place / "json.py").write_text("raise SystemExit(9)")
    command = hello_command(load(QUICKSTART, environ={}), place)
    done = subprocess.run([*command[:-4], "-c", "import json"], cwd=place, check=False)
    assert done.returncode == 0


def test_the_object_is_printed_without_slurm_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    done = trtdist("doctor", QUICKSTART, "--nodes", "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["exit_code"], told["nodes"]) == (4, 4, [])
    assert [each["code"] for each in told["findings"] if each["level"] == "error"] == ["slurm"]


def test_the_object_is_printed_when_no_nodes_can_be_had(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srun = place / "srun"
    srun.write_text("#!/bin/sh\necho pmix\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(place))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    told = json.loads(trtdist("doctor", QUICKSTART, "--nodes", "--json").stdout)
    assert [each["code"] for each in told["findings"] if each["level"] == "error"] == ["slurm"]


def test_folders_that_may_not_be_looked_into(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What it imports may lie where only root can read.
    trtdist("doctor", QUICKSTART, "--local", *within(place))
    with somebody() as folder:
        closed = folder / "closed"
        closed.mkdir(mode=0)
        monkeypatch.setenv("TRTDIST_RUNS", str(closed / "mine" / "runs"))
        done = trtdist("doctor", QUICKSTART, "--local", "--json", *within(closed / "images" / "image.sqsh"))
        found = {each["code"]: each["what"] for each in json.loads(done.stdout)["findings"]}
        assert f"{closed} cannot be written to" in found["runs"]
        assert f"the image {closed}/images/image.sqsh cannot be read here (Permission denied)" in found["image"]
        closed.chmod(0o700)
