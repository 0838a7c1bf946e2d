"""Writes a root file system as an archive of one layer, which `docker load` and `podman load` take."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from trtdist.containers.image_archive import file_digest
from trtdist.containers.image_formats import go_name

__all__ = ["pack"]


def pack(root: Path, name: str, architecture: str, environment: dict[str, str], output: Path) -> None:
    """Write the archive, its image called `NAME:latest`; the layer is made beside it first. OSError."""
    layer = output.with_name("layer.tar")
    with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(root, arcname=".", filter=_anonymous)
    config = {
        "architecture": go_name(architecture),
        "os": "linux",
        "config": {"Env": [f"{key}={value}" for key, value in environment.items()]},
        "rootfs": {"type": "layers", "diff_ids": [file_digest(layer)]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [f"{name}:latest"], "Layers": ["layer.tar"]}]
    with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in (("config.json", config), ("manifest.json", manifest)):
            text = json.dumps(content).encode()
            described = tarfile.TarInfo(member)
            described.size = len(text)
            tar.addfile(described, io.BytesIO(text))
        tar.add(layer, arcname="layer.tar")
    layer.unlink()


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """A file as root's; None leaves out what only a running system has."""
    if member.ischr() or member.isblk() or member.isfifo():
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
