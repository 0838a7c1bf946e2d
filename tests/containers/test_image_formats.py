"""What an image is, is told from its first bytes, and one that is not whole is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.containers.small_images import docker_archive, elf, layer, sif, small_root
from tests.images import program_or_skip
from trtdist.containers.image_formats import architecture_name, elf_architecture, here, recognised
from trtdist.containers.image_sources import Registry, default_name, docker_name, parse_registry, valid_name
from trtdist.containers.image_tree import inside
from trtdist.errors import InputError


def test_the_architecture_of_this_machine() -> None:
    assert elf_architecture(Path(sys.executable).resolve().read_bytes()[:20]) == here() == platform.machine()
    assert elf_architecture(elf("aarch64")) == "aarch64" == architecture_name("arm64")
    assert elf_architecture(b"#!/bin/sh\n".ljust(20)) == "" == elf_architecture(b"\x7fELF")


@pytest.fixture(scope="module")
def squashfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squashfs")
    program_or_skip("mksquashfs")
    root = small_root(folder / "root", megabytes=1)
    argv = ["mksquashfs", str(root), str(folder / "image.sqsh"), "-quiet", "-no-progress"]
    subprocess.run(argv, capture_output=True, check=True)
    return folder / "image.sqsh"


def test_each_format_is_recognised(squashfs: Path, tmp_path: Path) -> None:
    size = squashfs.stat().st_size
    assert (recognised(squashfs).format, recognised(squashfs).size) == ("squashfs", size)
    found = recognised(sif(tmp_path / "a.img", squashfs.read_bytes(), b"04"))
    assert (found.format, found.architecture, found.offset) == ("sif", "aarch64", 32768)
    archive = docker_archive(tmp_path / "a.tar", [layer({"bin/sh": elf()})])
    assert recognised(archive).format == "archive"
    folder = recognised(small_root(tmp_path / "root", "aarch64"))
    assert (folder.format, folder.architecture) == ("directory", "aarch64")


def test_one_that_was_cut_off_is_refused(squashfs: Path, tmp_path: Path) -> None:
    whole = squashfs.read_bytes()
    cut, packed = tmp_path / "cut", sif(tmp_path / "sif", whole).read_bytes()
    # mksquashfs pads to 4 KiB, and what it says ends before that.
    for content in (whole[:50], whole[:200], whole[:-4096], packed[:-1], packed[:40_000], packed[:100]):
        cut.write_bytes(content)
        with pytest.raises(InputError, match="was cut off: it has"):
            recognised(cut)


def test_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no image"):
        recognised(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is no root file system"):
        recognised(tmp_path / "empty")
    (tmp_path / "file").write_bytes(random.Random(0).randbytes(5000))
    with pytest.raises(InputError, match="is neither squashfs, SIF"):
        recognised(tmp_path / "file")
    with pytest.raises(InputError, match=r"cannot be read here \(Not a directory\): correct the path"):
        recognised(tmp_path / "file" / "inside")
    if os.geteuid() != 0:
        (tmp_path / "file").chmod(0)
        with pytest.raises(InputError, match=r"cannot be read here \(Permission denied\): mend its permissions"):
            recognised(tmp_path / "file")


@example(gzip.compress(b"x" * 99)[:12], b"")
@example(gzip.compress(b"x" * 99)[:-9] + b"spoiled!!", b"")
@example(lzma.compress(b"x" * 99)[:30], b"")
@example(bz2.compress(b"x" * 99)[:20], b"")
@given(st.binary(max_size=400), st.sampled_from([b"hsqs", bytes(32) + b"SIF_MAGIC\0", b""]))
def test_any_bytes_are_an_image_or_refused(tmp_path_factory: pytest.TempPathFactory, rest: bytes, start: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(start + rest)
    try:
        assert recognised(path).path == path
    except InputError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("source", "registry", "name"),
    [
        ("docker://ubuntu", Registry("", "ubuntu"), "ubuntu"),
        ("docker://org/x:1", Registry("", "org/x:1"), "org+x+1"),
        ("docker://nvcr.io/nvidia/x:1.0", Registry("nvcr.io", "nvidia/x:1.0"), "nvidia+x+1.0"),
        ("docker://nvcr.io#nvidia/x:1.0", Registry("nvcr.io", "nvidia/x:1.0"), "nvidia+x+1.0"),
        ("docker://$oauthtoken@nvcr.io#nvidia/x", Registry("nvcr.io", "nvidia/x", "$oauthtoken"), "nvidia+x"),
        ("docker://a b", None, ""),
        ("docker://", None, ""),
        ("docker://me@nvcr.io#nvidia/x", Registry("nvcr.io", "nvidia/x", "me"), "nvidia+x"),
        ("docker://localhost:5000/x", Registry("localhost:5000", "x"), "x"),
        (f"docker://a/b@sha256:{'0' * 64}", Registry("", f"a/b@sha256:{'0' * 64}"), "a+b"),
    ],
)
def test_names_of_registries(source: str, registry: Registry | None, name: str) -> None:
    if registry is None:
        with pytest.raises(InputError, match="write docker://"):
            parse_registry(source)
        return
    assert parse_registry(source) == registry
    assert parse_registry(registry.reference()) == Registry(registry.registry, registry.image)
    assert default_name(source) == name == valid_name(name)


def test_other_names() -> None:
    assert [default_name(name) for name in ("/a/x.tar.gz", "b/y.sqsh", "z.sif", "/images/folder/")] == [
        *("x", "y", "z", "folder")
    ]
    assert Registry("r.io", "a/b:1").pinned("sha256:00").reference() == "docker://r.io/a/b@sha256:00"
    assert Registry("r.io:1", "a/b:1", "me").enroot_reference() == "docker://me@r.io:1#a/b:1"
    assert docker_name("Org+x+1.0_") == "org-x-1-0"
    for name in ("", ".x", "a/b", "a b", "-x"):
        with pytest.raises(InputError, match="cannot be the name"):
            valid_name(name)


def test_links_never_lead_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    for name, target in (("up", "../../.."), ("host", "/etc"), ("b", "a"), ("loop", "loop")):
        (root / name).symlink_to(target)
    assert inside(root, "/up/x") == root / "x"
    assert inside(root, "host/passwd") == root / "etc/passwd"
    assert inside(root, "a/../b/./c") == root / "a/c"
    assert inside(root, "../../x") == root / "x"
    with pytest.raises(OSError, match="circle"):
        inside(root, "loop/x")
