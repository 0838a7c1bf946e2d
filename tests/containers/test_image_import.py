"""An image is imported once, whole or not at all, from whatever it is to whatever the runtime wants."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.containers.small_images import docker_archive, elf, layer, oci_layout, sif, small_root, tree
from tests.images import program_or_skip
from tests.somebody import somebody
from tests.supervisor.runs import wait_for
from trtdist.cli.image import command
from trtdist.errors import InputError, MissingError, TrtdistError
from trtdist.images import image_path, read_record
from trtdist.topology import load

LOWER = layer(
    {
        "bin": "-> usr/bin",
        "usr/bin/dash": elf(),
        "usr/bin/sh": "-> dash",
        "etc/passwd": b"root",
        "opt/old/a": b"a",
        "opt/old/b": b"b",
        "srv/gone": b"gone",
        "srv/kept": b"kept",
        "becomes/a/folder": b"",
        "becomes/a/link": None,
    }
)
UPPER = layer(
    {
        "./bin/tool": b"through a link",
        "opt/old/.wh..wh..opq": b"",
        "opt/old/new": b"new",
        "srv/.wh.gone": b"",
        "becomes/a/link": "-> ../../srv",
        "becomes/a/folder": None,
        "becomes/a/folder/inside": b"it",
        "hard": "= usr/bin/dash",
        "out": "-> /etc",
        "out/written": b"inside",
        "../../../above": b"inside too",
    }
)
UNPACKED = {
    "above": b"inside too",
    "becomes/a/folder/inside": b"it",
    "becomes/a/link": "-> ../../srv",
    "bin": "-> usr/bin",
    "etc/passwd": b"root",
    "etc/written": b"inside",
    "hard": elf(),
    "opt/old/new": b"new",
    "out": "-> /etc",
    "srv/kept": b"kept",
    "usr/bin/dash": elf(),
    "usr/bin/sh": "-> dash",
    "usr/bin/tool": b"through a link",
}
SETTINGS = b"HF_HOME=/cache\nPATH=/bin:/sbin\n"


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where images go."""
    monkeypatch.setenv("TRTDIST_IMAGES", str(tmp_path / "images"))
    monkeypatch.setenv("TRTDIST_SITE", "")
    return tmp_path / "images"


def image(*arguments: object) -> str:
    return CliRunner().invoke(command, [*map(str, arguments)], catch_exceptions=False).stdout


def imported(*arguments: object) -> Path:
    return Path(image("import", *arguments).strip())


def files(root: Path) -> dict[str, str | bytes]:
    return {name: content for name, content in tree(root).items() if content != ""}


def test_layers_become_a_root_file_system(images: Path, tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "a.tar", [LOWER, UPPER], environment=["HF_HOME=/cache", "PATH=/bin:/sbin"])
    root = imported(archive, "--runtime", "charliecloud")
    assert root == images / "a" / "root"
    assert files(root) == {**UNPACKED, "etc/environment": SETTINGS, "ch/environment": SETTINGS}
    assert (root / "etc/passwd").stat().st_mtime == 1_600_000_000
    assert sorted(os.listdir(images)) == ["a"] and sorted(os.listdir(images / "a")) == ["image.json", "root"]
    record = read_record(images / "a")
    assert record is not None
    assert (record.source, record.architecture, record.environment) == (str(archive), "x86_64", ("HF_HOME", "PATH"))
    assert not (tmp_path / "above").exists()


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="podman mounts images for root alone")
def test_podman_makes_the_same_of_layers(tmp_path: Path) -> None:
    program_or_skip("podman")
    archive = docker_archive(tmp_path / "a.tar", [LOWER, UPPER])
    # podman wants a path of at most 50 characters there.
    short = tempfile.mkdtemp(prefix="t-", dir="/tmp")
    store = ["--root", tmp_path / "store", "--runroot", short, "--storage-driver=vfs"]

    def podman(*words: object) -> str:
        argv = ["podman", *store, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    podman("load", "--quiet", "--input", archive)
    theirs = files(Path(podman("image", "mount", "small:1")))
    ours = files(imported(archive, "--format", "directory"))
    podman("image", "umount", "--all")
    podman("system", "reset", "--force")
    shutil.rmtree(short, ignore_errors=True)
    assert {name: content for name, content in ours.items() if "environment" not in name} == theirs == UNPACKED


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_layouts_and_archives_of_oci(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    layers = [LOWER, UPPER]
    layout = oci_layout(tmp_path / "layout", layers, [pack(content) for content in layers])
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        for name in ("blobs", "index.json", "oci-layout"):
            tar.add(layout / name, arcname=name)
    for source in (layout, tmp_path / "b.tar.gz"):
        root = imported(source, "--format", "directory")
        assert {name: content for name, content in files(root).items() if "environment" not in name} == UNPACKED


def test_every_way_leads_to_the_same(tmp_path: Path) -> None:
    source = small_root(tmp_path / "source")
    wanted = tree(source)
    squashfs = imported(source, "--runtime", "enroot", "--name", "s")
    archive = imported(source, "--runtime", "docker", "--name", "a")
    packed = sif(tmp_path / "packed.sif", squashfs.read_bytes())
    assert (squashfs.name, archive.name) == ("image.sqsh", "image.tar")
    assert tree(imported(source, "--runtime", "podman", "--name", "d")) == wanted
    for number, each in enumerate((squashfs, packed, archive)):
        found = tree(imported(each, "--format", "directory", "--name", f"d{number}"))
        if each is archive:
            assert found.pop("ch") == "" and found.pop("ch/environment") == b"HF_HOME=/cache\nUCX_TLS=tcp\n"
            assert str(found.pop("etc/environment")).startswith(str(wanted["etc/environment"])[:-1])
            assert found == {name: content for name, content in wanted.items() if name != "etc/environment"}
        else:
            assert found == wanted
    again = imported(squashfs, "--format", "squashfs", "--name", "again")
    assert again.read_bytes() == squashfs.read_bytes()
    assert {each["name"]: each["environment"] for each in json.loads(image("list", "--json"))["images"]} == {
        name: ["HF_HOME", "UCX_TLS"] for name in ("a", "again", "d", "d0", "d1", "d2", "s")
    }


def test_what_is_there_is_not_imported_again(images: Path, tmp_path: Path) -> None:
    source = docker_archive(tmp_path / "x.tar", [LOWER])
    first = imported(source, "--format", "archive")
    made = first.stat().st_ino
    assert imported(source, "--format", "archive") == first and first.stat().st_ino == made
    with pytest.raises(InputError, match="it is archive and directory is asked for: choose another --name"):
        image("import", source, "--format", "directory")
    with pytest.raises(InputError, match="an image x was imported already"):
        image("import", docker_archive(tmp_path / "y.tar", [UPPER]), "--format", "archive", "--name", "x")
    later = source.stat().st_mtime + 60
    os.utime(source, (later, later))
    with pytest.raises(InputError, match="has changed since"):
        image("import", source, "--format", "archive")
    with first.open("r+b") as file:
        file.truncate(100)
    assert "(image.tar has 100 bytes, and" in image("list")
    os.utime(source, (1, 1))
    with pytest.raises(InputError, match=r"no complete image .*remove it"):
        image("import", source, "--format", "archive")


def test_another_architecture(tmp_path: Path) -> None:
    root = small_root(tmp_path / "arm", "aarch64")
    archive = docker_archive(tmp_path / "arm.tar", [layer({"bin/sh": elf("aarch64")})], "arm64")
    for source in (root, archive):
        with pytest.raises(InputError, match=r"is made for aarch64 and x86_64 is wanted.*say --arch aarch64"):
            image("import", source, "--format", "directory", "--arch", "amd64")
    squashfs = imported(root, "--format", "squashfs", "--arch", "arm64")
    with pytest.raises(InputError, match="is made for aarch64"):
        image("import", squashfs, "--format", "squashfs", "--name", "other", "--arch", "x86_64")


def test_damage_is_found(images: Path, tmp_path: Path) -> None:
    good = docker_archive(tmp_path / "good.tar", [LOWER, UPPER]).read_bytes()
    bad = tmp_path / "bad.tar"
    end = len(good.rstrip(b"\0"))
    cuts = [good[: end * part // 10 - 1] for part in range(1, 11)]
    packed = gzip.compress(good)
    cuts += [packed[: len(packed) * part // 5] for part in range(1, 5)]
    spoiled = good.replace(b"through a link", b"through a lint")
    for content in (*cuts, spoiled):
        bad.write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.tar.* again"):
            image("import", bad, "--format", "directory")
        assert image("list") == "" and not (images / "bad").exists()
    bad.write_bytes(good)
    assert imported(bad, "--format", "directory").is_dir()


def test_what_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there is no image"):
        image("import", tmp_path / "none", "--format", "directory")
    with pytest.raises(InputError, match=r"say --runtime .* or --format"):
        image("import", tmp_path)
    with pytest.raises(InputError, match="no image of a registry"):
        image("import", "docker://a b", "--format", "directory", "--name", "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot import an image in .* choose another --images"):
        image("import", small_root(tmp_path / "r"), "--format", "directory", "--images", tmp_path / "file")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"mksquashfs is not on PATH, which packs an image: .*squashfs-tools"):
        image("import", tmp_path / "r", "--format", "squashfs")
    with pytest.raises(MissingError, match=r"neither skopeo nor podman is on PATH.*apt-get install skopeo"):
        image("import", "docker://ubuntu", "--format", "directory")
    with pytest.raises(MissingError, match=r"neither apptainer nor singularity is on PATH.*load its module"):
        image("import", "docker://ubuntu", "--format", "sif")


def test_a_topology_may_name_an_imported_image(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site.yaml").write_text("images: elsewhere\ncontainer: {runtime: podman}\n")
    monkeypatch.setenv("TRTDIST_SITE", str(tmp_path / "site.yaml"))
    monkeypatch.delenv("TRTDIST_IMAGES")
    root = imported(small_root(tmp_path / "small"))
    assert root == tmp_path / "elsewhere" / "small" / "root" == image_path(tmp_path / "elsewhere", "small")
    file = tmp_path / "t.yaml"
    for name, wanted in (("small", str(root)), ("ubuntu", "ubuntu"), ("org/small", "org/small")):
        file.write_text(f"name: t\nmodel: org/m\nservers: {{}}\ncontainer: {{image: {name}}}\n")
        assert load(file, environ=os.environ).container.image == wanted
    loaded = load(file, overrides=["container.runtime=docker", "container.image=small"], environ=os.environ)
    assert loaded.container.image == "small"


def test_the_recipe(tmp_path: Path) -> None:
    text = image("recipe", "--base", "docker://nvcr.io/nvidia/x:1")
    assert text.startswith("FROM nvcr.io/nvidia/x:1\n") and "mpi4py" in text
    with pytest.raises(InputError, match="is no image"):
        image("recipe", "--base", "x\nRUN true")


@pytest.fixture
def imports(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts `trtdist image import` of a source as squashfs."""
    started: list[subprocess.Popen[str]] = []

    def start(source: Path) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "trtdist.cli", "image", "import", str(source), "--format", "squashfs"]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_several_at_once_import_it_once(
    imports: Callable[[Path], subprocess.Popen[str]], images: Path, tmp_path: Path
) -> None:
    source = small_root(tmp_path / "s", megabytes=4)
    together = [imports(source) for _ in range(3)]
    ends = [process.communicate(timeout=120) for process in together]
    assert [process.returncode for process in together] == [0] * 3, ends
    assert {out.strip() for out, _ in ends} == {str(images / "s" / "image.sqsh")}
    assert [err for _, err in ends if "packing it" in err] and os.listdir(images) == ["s"]
    assert sum("packing it" in err for _, err in ends) == 1


MOMENTS = ("*.claim", ".s.part", ".s.part/work-*", ".s.part/work-*/image.sqsh")


@pytest.mark.parametrize(
    "moment", [MOMENTS[-1], *(pytest.param(each, marks=pytest.mark.long) for each in MOMENTS[:-1])]
)
def test_one_that_was_killed_half_way_leaves_nothing_half_done(
    imports: Callable[[Path], subprocess.Popen[str]], images: Path, tmp_path: Path, moment: str
) -> None:
    source = small_root(tmp_path / "s", megabytes=16)
    first = imports(source)
    # Who looks too late finds the image whole.
    wait_for(lambda: first.poll() is not None or any(images.glob(moment)), 60, f"{moment} to be there")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    if not (images / "s").exists():
        assert image("list") == ""
    second = imports(source)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    unpacked = subprocess.run(
        ["unsquashfs", "-quiet", "-no-progress", "-d", tmp_path / "out", out.strip()], capture_output=True, check=False
    )
    assert unpacked.returncode == 0 and tree(tmp_path / "out") == tree(source)
    assert os.listdir(images) == ["s"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can be mounted by root alone")
@pytest.mark.parametrize("wanted", ["directory", "squashfs", "archive"])
def test_no_space(images: Path, tmp_path: Path, wanted: str) -> None:
    source = small_root(tmp_path / "s", megabytes=4)
    images.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", images], check=True)
    try:
        with pytest.raises(TrtdistError, match=r"no space is left in .*: make room and import it again") as raised:
            image("import", source, "--format", wanted)
        assert raised.value.exit_code == 1 and image("list") == ""
        subprocess.run(["mount", "-o", "remount,size=20m", images], check=True)
        assert imported(source, "--format", wanted).exists()
    finally:
        subprocess.run(["umount", images], check=True)
    shutil.rmtree(images)


def test_a_file_that_cannot_be_read_is_not_packed_as_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    program_or_skip("mksquashfs")
    with somebody() as folder:
        root = small_root(folder / "system")
        (root / "usr/bin/secret").write_bytes(b"x")
        (root / "usr/bin/secret").chmod(0)
        monkeypatch.setenv("TRTDIST_IMAGES", str(folder / "images"))
        with pytest.raises(TrtdistError, match=r"Failed to read file .*/system/usr/bin/secret"):
            image("import", root, "--format", "squashfs")
        assert not (folder / "images" / "system").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_normal_user_unpacks_an_image_with_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program_or_skip("unsquashfs")
    root = small_root(tmp_path / "root")
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    packed = imported(root, "--format", "squashfs").read_bytes()
    with somebody() as folder:
        (folder / "packed").write_bytes(packed)
        monkeypatch.setenv("TRTDIST_IMAGES", str(folder / "images"))
        unpacked = imported(folder / "packed", "--format", "directory")
        assert (unpacked / "usr/bin/dash").read_bytes() == elf() and not (unpacked / "null").exists()


def test_a_source_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with somebody() as folder:
        root = small_root(folder / "system")
        (root / "secret").write_bytes(b"x")
        (root / "secret").chmod(0)
        monkeypatch.setenv("TRTDIST_IMAGES", str(folder / "images"))
        with pytest.raises(InputError, match=r"^cannot read .*/system/secret \(Permission denied\): "):
            image("import", root, "--format", "archive")
