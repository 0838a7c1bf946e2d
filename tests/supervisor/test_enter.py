"""What the program that enters a container refuses before the runtime is asked."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.containers.small_images import sif, small_root
from tests.images import program_or_skip
from tests.supervisor.runs import wait_for
from trtdist.containers import Container
from trtdist.containers.image_formats import here
from trtdist.errors import InputError, MissingError
from trtdist.events import EventReader, TaskRefused
from trtdist.images import RECORD, ImageRecord
from trtdist.observe.node_facts import LOOK_S
from trtdist.rundir import RunDir
from trtdist.supervisor import gpu_driver
from trtdist.supervisor.enter import enter
from trtdist.supervisor.gpu_driver import Driver, driver_of

OTHER = "aarch64" if here() == "x86_64" else "x86_64"


def refusal(runtime: str, image: Path, *, gpus: bool = False) -> str:
    environ = {"SLURMD_NODENAME": "n7", "TRTDIST_LOCAL_DIR": str(image.parent)}
    with pytest.raises(MissingError) as caught:
        enter(runtime, Container(str(image), gpus=gpus), ["true"], environ)
    return str(caught.value)


def with_bash(root: Path) -> Path:
    (root / "usr/bin/bash").write_bytes(b"")
    (root / "usr/bin/bash").chmod(0o755)
    return root


def test_an_image_for_another_architecture(tmp_path: Path) -> None:
    told = f"node n7 is {here()}, and the image {tmp_path}/root is made for {OTHER}: import it with"
    assert told in refusal("charliecloud", with_bash(small_root(tmp_path / "root", OTHER)))


def test_the_architecture_that_was_recorded(tmp_path: Path) -> None:
    image = tmp_path / "image.sqsh"
    image.write_bytes(b"hsqs" + bytes(200))
    record = ImageRecord("", "", "squashfs", 204, "", OTHER, "")
    (tmp_path / RECORD).write_text(record.to_json())
    assert f"the image {image} is made for {OTHER}" in refusal("enroot", image)
    image.write_bytes(b"hsqs")
    assert f" sees the image {image} not whole" in refusal("enroot", image)


@pytest.mark.parametrize("runtime", ["enroot", "charliecloud", "apptainer"])
def test_an_image_that_was_cut_off(tmp_path: Path, runtime: str) -> None:
    image = tmp_path / "image.sqsh"
    image.write_bytes(b"hsqs" + bytes(36) + (1 << 20).to_bytes(8, "little") + bytes(100))
    told = f" cannot use the image: the image {image} was cut off: it has 148 bytes of 1048576; import or copy"
    assert told in refusal(runtime, image)


def test_an_image_for_another_runtime(tmp_path: Path) -> None:
    image = sif(tmp_path / "image.sif", b"x")
    assert "what enroot does not start (sif): import it with `trtdist image import" in refusal("enroot", image)


@pytest.mark.parametrize("environ", [{}, {"TRTDIST_LOCAL_DIR": "/nowhere/at/all"}])
def test_a_folder_of_the_node_is_needed(environ: dict[str, str]) -> None:
    with pytest.raises(InputError, match="TRTDIST_LOCAL_DIR names no folder: make one"):
        enter("charliecloud", Container("image"), ["true"], environ)


def squashed(root: Path) -> Path:
    """A squashfs file of a folder."""
    image = root.with_suffix(".sqsh")
    image.unlink(missing_ok=True)
    subprocess.run(["mksquashfs", root, image, "-quiet", "-no-progress"], capture_output=True, check=True)
    return image


@pytest.mark.parametrize("form", ["folder", "squashfs"])
def test_charliecloud_needs_the_driver_in_the_image(tmp_path: Path, form: str) -> None:
    program_or_skip("mksquashfs", "unsquashfs")
    root = with_bash(small_root(tmp_path / "image", here()))
    image = squashed(root) if form == "squashfs" else root
    told = refusal("charliecloud", image, gpus=True)
    assert f"cannot use the image: the image {image} has no libcuda, and charliecloud brings none" in told
    assert f": `ch-fromhost --nvidia {root}` does" in told or f"`trtdist image import {image} --runtime charl" in told
    (root / "usr/lib/somewhere").mkdir(parents=True)
    (root / "usr/lib/somewhere/libcuda.so.1").touch()
    image = squashed(root) if form == "squashfs" else root
    environ = {"SLURMD_NODENAME": "n7", "TRTDIST_LOCAL_DIR": str(tmp_path), "PATH": ""}
    with pytest.raises(MissingError) as caught:
        enter("charliecloud", Container(str(image), gpus=True), ["true"], environ)
    assert str(caught.value).startswith("node n7 has no ch-run: ") and "libcuda" not in str(caught.value)


def test_the_driver_of_a_squashfs_may_come_by_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, driver = tmp_path / "image.sqsh", tmp_path / "driver"
    folder = driver / "lib/x86_64-linux-gnu"
    image.write_bytes(b"hsqs" + bytes(200))
    folder.mkdir(parents=True)
    monkeypatch.setenv("PATH", str(driver))
    assert driver_of(str(image), [(str(driver), "/usr")]) != Driver()
    (folder / "libcuda.so.1").touch()
    for source in (folder, folder.parent, driver):
        assert driver_of(str(image), [(str(source), "/usr/local/nvidia")]) == Driver()
    assert driver_of(str(image), [("/some/lib.so", "/usr/lib/libcuda.so.1")]) == Driver()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (None, "cannot be started: No such file or directory"),
        ("echo 'unsquashfs: -lc is an invalid option'; exit 1", "ended with exit code 1"),
        ("exec sleep 60", "did not end within 0.5 s"),
    ],
)
def test_a_squashfs_that_cannot_be_looked_into_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, why: str
) -> None:
    image, unsquashfs = tmp_path / "image.sqsh", tmp_path / "bin/unsquashfs"
    image.write_bytes(b"hsqs" + bytes(200))
    unsquashfs.parent.mkdir()
    path = str(unsquashfs.parent)
    if program is not None:
        unsquashfs.write_text(f"#!/bin/sh\n{program}\n")
        unsquashfs.chmod(0o755)
        path += os.pathsep + os.defpath
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr(gpu_driver, "_SECONDS", 0.5 if why.endswith("0.5 s") else 60.0)
    found = driver_of(str(image), [])
    assert found.problem == "" and f"not known whether {image} has libcuda" in found.doubt
    assert f"(unsquashfs {why}): look with" in found.doubt


def test_looking_for_the_driver_ends_before_the_look_at_a_node() -> None:
    assert gpu_driver._SECONDS < LOOK_S / 2


class Node:
    """A node without enroot, on which ranks of a step are to enter a container of enroot."""

    def __init__(self, folder: Path) -> None:
        self.run = RunDir(folder)
        self.run.events.mkdir()
        self.told = "node n7 has no enroot: install enroot there, or choose another container.runtime; "
        self.told += f"it has no {folder}/site to mount: make it there, or take it out of container.mounts"
        folders = dict.fromkeys(("TRTDIST_RUN_DIR", "TRTDIST_LOCAL_DIR", "PATH"), str(folder))
        # As the supervisor has it; its steps inherit it.
        python = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
        self._environ = {**folders, **python, "TRTDIST_STEP": "workers", "SLURMD_NODENAME": "n7", "SLURM_JOB_ID": "3"}

    def enter(self, name: str, stderr: int, slurm_step: int = 2) -> subprocess.Popen[str]:
        """Start a rank."""
        environ = {**self._environ, "TRTDIST_ENTERS": name, "SLURM_STEP_ID": str(slurm_step)}
        words = [sys.executable, "-m", "trtdist.supervisor.enter", "--runtime=enroot", "--image=some", "--", "true"]
        return subprocess.Popen(words, env=environ, stderr=stderr, text=True)

    def refusals(self) -> list[TaskRefused]:
        """Those made known to the supervisor."""
        events = [record.event for record in EventReader(self.run.events).poll()]
        return [event for event in events if isinstance(event, TaskRefused)]


def is_locked(path: Path) -> bool:
    """Whether somebody holds a lock of a file."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def ended(rank: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and what it wrote to its own standard error."""
    _, said = rank.communicate(timeout=60)
    return rank.returncode, said


def test_what_a_node_lacks_is_told_as_the_reason(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert ended(node.enter("gen.0.1", subprocess.PIPE)) == (4, f"trtdist: {node.told}\n")
    assert node.refusals() == [TaskRefused("workers", "gen.0.1", f"cannot enter its container: {node.told}")]


def test_what_a_node_lacks_is_told_by_one_rank_of_a_step(tmp_path: Path) -> None:
    node = Node(tmp_path)
    found = [ended(rank) for rank in [node.enter(f"gen.0.{number}", subprocess.PIPE) for number in range(3)]]
    assert sorted(found) == [(4, ""), (4, ""), (4, f"trtdist: {node.told}\n")]
    assert [refused.reason for refused in node.refusals()] == [f"cannot enter its container: {node.told}"]
    assert ended(node.enter("gen.0.0", subprocess.PIPE, slurm_step=3)) == (4, f"trtdist: {node.told}\n")


def test_a_rank_that_says_what_its_node_lacks_says_it_to_the_end(tmp_path: Path) -> None:
    """Others on other nodes may have had the step killed meanwhile; what is said must not run into other lines."""
    node = Node(tmp_path)
    reading, writing = os.pipe()
    with open(reading, "rb") as heard, open(writing, "wb", buffering=0) as said:
        fcntl.fcntl(said, fcntl.F_SETPIPE_SZ, mmap.PAGESIZE)
        full = said.write(bytes(fcntl.fcntl(said, fcntl.F_GETPIPE_SZ)))
        first = node.enter("gen.0.0", said.fileno())
        wait_for(lambda: any(map(is_locked, tmp_path.glob("refused.*"))), 60.0, "a rank refuses")
        first.terminate()
        second = node.enter("gen.0.1", subprocess.PIPE)
        assert heard.read(full) == bytes(full)
        assert ended(first)[0] == 4 and ended(second) == (4, "")
        said.close()
        assert heard.read().decode() == f"trtdist: {node.told}\n"
    assert [refused.name for refused in node.refusals()] == ["gen.0.0"]
