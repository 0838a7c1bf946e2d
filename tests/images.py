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
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["bare_image", "image_or_skip"]

PACKAGES = "base-files bash coreutils python3-minimal python3-numpy python3-mpi4py openmpi-bin libpmix2"
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
    reason = why_no_image()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    return bare_image()


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
