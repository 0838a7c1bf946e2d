"""Unpacks the layers of an image into a folder, as any user: no owners, no devices, no set-user-id bits."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from pathlib import Path
from typing import IO, cast

from trtdist.containers.image_archive import Archive, HashedReader, Layer
from trtdist.containers.image_tree import inside
from trtdist.errors import InputError

__all__ = ["ENVIRONMENT_FILES", "remove_tree", "unpack"]

ENVIRONMENT_FILES = ("etc/environment", "ch/environment")
"""Where enroot and Charliecloud look for the variables of an image."""

_REMOVED, _OPAQUE = ".wh.", ".wh..wh..opq"
_OWNER = {"dir": 0o700, "file": 0o600}
_BLOCK = 1 << 20


def unpack(archive: Archive, root: Path) -> None:
    """Fill an empty folder with the image. InputError when a layer is not what the image says, OSError."""
    for layer in archive.layers:
        _Unpacking(archive, layer, root).run()
    variables = [f"{name}={value}\n" for name, value in archive.environment.items() if "\n" not in value]
    for name in ENVIRONMENT_FILES:
        path = inside(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(variables)


def remove_tree(path: Path) -> None:
    """Remove whatever is at a path, folders that may not be written to included; nothing to do when nothing is."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for folder, names, _ in os.walk(path):
        for name in names:
            below = os.path.join(folder, name)
            if not os.path.islink(below):
                os.chmod(below, 0o700)
    shutil.rmtree(path)


class _Unpacking:
    """One layer on its way into a folder that has those below it."""

    def __init__(self, archive: Archive, layer: Layer, root: Path) -> None:
        self._archive = archive
        self._layer = layer
        self._root = root
        self._mine: set[Path] = set()

    def run(self) -> None:
        with self._archive.layer(self._layer) as file:
            reader = HashedReader(file)
            with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|") as members:
                for member in members:
                    self._place(members, member)
            while reader.read(_BLOCK):
                continue
        if self._layer.digest and reader.digest() != self._layer.digest:
            raise InputError(f"the layer {self._layer.name} of {self._archive.path} is damaged: get the image again")

    def _place(self, members: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        # A name is taken as a path from the root; links on the way are followed as the container would follow them.
        folder, _, name = os.path.normpath("/" + member.name).rpartition("/")
        if not name:
            return
        parent = inside(self._root, folder)
        parent.mkdir(parents=True, exist_ok=True)
        if name == _OPAQUE:
            self._clear(parent)
        elif name.startswith(_REMOVED):
            remove_tree(parent / name[len(_REMOVED) :])
        else:
            self._write(members, member, parent / name)

    def _clear(self, folder: Path) -> None:
        """Remove what lower layers have put into a folder."""
        for path in folder.iterdir():
            if path not in self._mine:
                remove_tree(path)

    def _write(self, members: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        if not (member.isdir() and path.is_dir() and not path.is_symlink()):
            remove_tree(path)
        if member.isdir():
            path.mkdir(exist_ok=True)
            path.chmod(_mode(member, "dir"))
        elif member.issym():
            path.symlink_to(member.linkname)
        elif member.islnk():
            folder, _, name = os.path.normpath("/" + member.linkname).rpartition("/")
            os.link(inside(self._root, folder) / name, path, follow_symlinks=False)
        elif member.isreg():
            with path.open("wb") as file:
                shutil.copyfileobj(cast("IO[bytes]", members.extractfile(member)), file, _BLOCK)
            path.chmod(_mode(member, "file"))
            # Compiled Python is used only when it is of the very time of its source.
            os.utime(path, (member.mtime, member.mtime))
        self._mine.update((path, *path.parents))


def _mode(member: tarfile.TarInfo, kind: str) -> int:
    """The mode of a file or folder, which its owner can always read and remove."""
    return (stat.S_IMODE(member.mode) & 0o1777) | _OWNER[kind]
