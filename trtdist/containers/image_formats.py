"""What an image is, by its first bytes: squashfs, SIF, an archive of layers or a directory. Reads headers alone.

Layouts: squashfs 4.0 superblock (linux/fs/squashfs/squashfs_fs.h), SIF (github.com/apptainer/sif, pkg/sif/sif.go),
docker-archive (`docker save`) and the OCI image layout, ELF header (elf(5)). Standard library, Python 3.9.
"""

from __future__ import annotations

import lzma
import os
import platform
import struct
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trtdist.containers.image_tree import resolved
from trtdist.errors import InputError

__all__ = [
    "BINARIES",
    "NATIVE",
    "Image",
    "architecture_name",
    "elf_architecture",
    "go_name",
    "here",
    "recognised",
    "root_architecture",
]

NATIVE = {
    "pyxis": "squashfs",
    "enroot": "squashfs",
    "apptainer": "sif",
    "singularity": "sif",
    "charliecloud": "directory",
    "podman": "directory",
    "docker": "archive",
}
"""The format that each container runtime starts from a path; docker has none, and loads an archive."""


_SQUASHFS_MAGIC, _SQUASHFS_HEADER = b"hsqs", 96
_SIF_MAGIC, _SIF_HEADER, _SIF_DESCRIPTOR = b"SIF_MAGIC", 128, 585
_SIF_FILE_SYSTEM, _SIF_SQUASHFS, _SIF_SYSTEM = 0x4004, 1, 2
_SIF_ARCHITECTURES = {
    b"01": "i386", b"02": "x86_64", b"03": "armv7l", b"04": "aarch64", b"05": "ppc64", b"06": "ppc64le",
    b"11": "s390x",
}  # fmt: skip
_ELF_MACHINES = {3: "i386", 21: "ppc64", 22: "s390x", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_ALIASES = {"amd64": "x86_64", "arm64": "aarch64", "386": "i386", "arm": "armv7l"}
# Whichever of them an image has is made for the machine; a shell script would not do.
BINARIES = (
    *("bin/sh", "bin/bash", "bin/dash", "bin/busybox"),
    *("usr/bin/sh", "usr/bin/bash", "usr/bin/dash", "usr/bin/env", "usr/bin/coreutils"),
)
_MAX_DESCRIPTORS = 1024


@dataclass(frozen=True)
class Image:
    """What a path turned out to hold.

    `format` is `squashfs`, `sif`, `directory` or `archive`; `size` in bytes is 0 for a directory; `architecture` is ""
    where the header does not tell; a squashfs begins at `offset`, which is 0 but within SIF.
    """

    path: Path
    format: str
    size: int = 0
    architecture: str = ""
    offset: int = 0


def architecture_name(name: str) -> str:
    """An architecture as uname says it, whoever named it: amd64 is x86_64, arm64 is aarch64."""
    return _ALIASES.get(name.lower(), name.lower())


def go_name(architecture: str) -> str:
    """The same as registries, skopeo and podman say it: x86_64 is amd64."""
    names = {name: alias for alias, name in _ALIASES.items()}
    return names.get(architecture, architecture)


def here() -> str:
    """The architecture of this machine."""
    return architecture_name(platform.machine())


def elf_architecture(head: bytes) -> str:
    """The architecture that the first 20 bytes of a program name; "" when it is no ELF program, or of none we know."""
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return ""
    little = head[5] == 1
    machine = struct.unpack_from("<H" if little else ">H", head, 18)[0]
    name = _ELF_MACHINES.get(machine, "")
    return "ppc64le" if name == "ppc64" and little else name


def root_architecture(root: Path) -> str:
    """The architecture of the programs below a root file system; "" when none is found."""
    for name in BINARIES:
        path = resolved(root, name)
        found = elf_architecture(_head(path)) if path is not None else ""
        if found:
            return found
    return ""


def _head(path: Path) -> bytes:
    """The first bytes of a file; none when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(20)
    except OSError:
        return b""


def recognised(path: Path) -> Image:
    """What is at a path. InputError when it is missing, cannot be read, was cut off, or is no image that we know."""
    try:
        if path.is_dir():
            return _directory(path)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_SIF_HEADER)
            if head.startswith(_SQUASHFS_MAGIC):
                return _squashfs(path, head, size)
            if head[32 : 32 + len(_SIF_MAGIC)] == _SIF_MAGIC:
                return _sif(path, file, head, size)
    except FileNotFoundError as error:
        raise InputError(f"there is no image {path}: import it with `trtdist image import`, or correct it") from error
    except OSError as error:
        remedy = "mend its permissions" if isinstance(error, PermissionError) else "correct the path, or copy it again"
        raise InputError(f"the image {path} cannot be read here ({error.strerror}): {remedy}") from error
    if _is_tar(path):
        return Image(path, "archive", size)
    raise InputError(f"{path} is neither squashfs, SIF, a docker or OCI archive nor the folder of a root file system")


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"the archive {path} is damaged or was cut off: save or copy it again") from error


def _directory(path: Path) -> Image:
    if (path / "oci-layout").is_file():
        return Image(path, "archive")
    if not any(resolved(path, name) for name in BINARIES):
        next(path.iterdir(), None)  # an OSError tells more, when the folder cannot be read
        raise InputError(f"{path} is no root file system: it has no {BINARIES[0]}")
    return Image(path, "directory", architecture=root_architecture(path))


def _squashfs(path: Path, head: bytes, size: int) -> Image:
    said = struct.unpack_from("<Q", head, 40)[0] if len(head) >= _SQUASHFS_HEADER else _SQUASHFS_HEADER
    if size < said:
        raise _cut_off(path, size, said)
    return Image(path, "squashfs", size)


def _sif(path: Path, file: BinaryIO, head: bytes, size: int) -> Image:
    if len(head) < _SIF_HEADER:
        raise _cut_off(path, size, _SIF_HEADER)
    architecture = _SIF_ARCHITECTURES.get(head[45:47], "")
    total, at = struct.unpack_from("<q", head, 88)[0], struct.unpack_from("<q", head, 96)[0]
    if total < 0 or at < 0:
        raise InputError(f"the SIF image {path} is damaged: import or copy it again")
    file.seek(at)
    table = file.read(min(total, _MAX_DESCRIPTORS) * _SIF_DESCRIPTOR)
    end, offset = at + len(table), 0
    for start in range(0, len(table) - _SIF_DESCRIPTOR + 1, _SIF_DESCRIPTOR):
        kind, used = struct.unpack_from("<i?", table, start)
        begin, length = struct.unpack_from("<qq", table, start + 17)
        system, part = struct.unpack_from("<ii", table, start + 201)
        if used:
            end = max(end, begin + length)
        if used and kind == _SIF_FILE_SYSTEM and system == _SIF_SQUASHFS and part == _SIF_SYSTEM:
            offset = begin
    if size < end:
        raise _cut_off(path, size, end)
    return Image(path, "sif", size, architecture, offset)


def _cut_off(path: Path, size: int, wanted: int) -> InputError:
    return InputError(f"the image {path} was cut off: it has {size} bytes of {wanted}; import or copy it again")
