"""Tiny images, made whole, for tests that break them."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["docker_archive", "elf", "oci_layout", "sif", "small_root", "tree"]

MACHINES = {"x86_64": 62, "aarch64": 183}
Entry = "bytes | str | None"


def elf(machine: str = "x86_64") -> bytes:
    """The header of a program for a machine."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, MACHINES[machine]) + bytes(44)


def small_root(folder: Path, machine: str = "x86_64", megabytes: int = 0) -> Path:
    """A root file system with a shell that nobody can run, links that lead out of it if / is not it, and some ballast
    in files that cannot be packed."""
    (folder / "usr" / "bin").mkdir(parents=True)
    (folder / "bin").symlink_to("/usr/bin")
    (folder / "usr/bin/dash").write_bytes(elf(machine))
    (folder / "usr/bin/sh").symlink_to("dash")
    (folder / "etc").mkdir()
    (folder / "etc/environment").write_text("HF_HOME=/cache\n# a remark\nUCX_TLS=tcp\n")
    (folder / "etc/closed").mkdir(mode=0o555)
    block = hashlib.shake_256(b"ballast").digest(1 << 20)
    for number in range(megabytes):
        (folder / f"ballast{number}").write_bytes(block[number:] + block[:number])
    return folder


def tree(root: Path) -> dict[str, str | bytes]:
    """What is below a folder by path: the bytes of files, `-> TARGET` for links, "" for folders."""
    found: dict[str, str | bytes] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "" if path.is_dir() else path.read_bytes()
    return found


def layer(entries: Mapping[str, bytes | str | None]) -> bytes:
    """A layer: files by their bytes, links by `-> TARGET`, hard links by `= TARGET`, folders by None."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = 0o755, 1_600_000_000
            if content is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                member.type = tarfile.SYMTYPE if content.startswith("-> ") else tarfile.LNKTYPE
                member.linkname = content.split(" ", 1)[1]
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def docker_archive(
    path: Path, layers: Sequence[bytes], architecture: str = "amd64", environment: Sequence[str] = ()
) -> Path:
    """An archive as `docker save` writes it."""
    files = {f"{number}/layer.tar": content for number, content in enumerate(layers)}
    config = _config(layers, architecture, environment)
    manifest = [{"Config": "config.json", "RepoTags": ["small:1"], "Layers": list(files)}]
    files |= {"config.json": config, "manifest.json": json.dumps(manifest).encode()}
    path.write_bytes(layer(files))
    return path


def oci_layout(folder: Path, layers: Sequence[bytes], packed: Sequence[bytes], architecture: str = "amd64") -> Path:
    """The folder of an OCI layout whose blobs are the layers as they were packed."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    manifest = {"config": blob(_config(layers, architecture, ())), "layers": [blob(content) for content in packed]}
    image = {**blob(json.dumps(manifest).encode()), "platform": {"architecture": architecture}}
    attestation = {"digest": "sha256:0", "platform": {"architecture": "unknown"}}
    (folder / "index.json").write_text(json.dumps({"manifests": [image, attestation]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def _config(layers: Sequence[bytes], architecture: str, environment: Sequence[str]) -> bytes:
    digests = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in layers]
    config = {"architecture": architecture, "config": {"Env": list(environment)}, "rootfs": {"diff_ids": digests}}
    return json.dumps(config).encode()


def sif(path: Path, squashfs: bytes, architecture: bytes = b"02") -> Path:
    """A SIF file with one file system, laid out as apptainer's pkg/sif/sif.go describes."""
    table, data = 4096, 32768
    header = b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\0" + b"01\0" + architecture + b"\0"
    header += bytes(16) + struct.pack("<8q", 0, 0, 47, 48, table, 48 * 585, data, len(squashfs))
    descriptor = struct.pack("<i?IIIqqq", 0x4004, True, 1, 1, 0, data, len(squashfs), len(squashfs))
    descriptor += bytes(4 * 8 + 128) + struct.pack("<ii", 1, 2) + architecture + b"\0"
    content = header.ljust(table, b"\0") + descriptor.ljust(48 * 585, b"\0")
    path.write_bytes(content.ljust(data, b"\0") + squashfs)
    return path
