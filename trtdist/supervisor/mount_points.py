"""What a runtime cannot do about mounts and this program does before it: places to mount at, mounts that cannot be
written to. Linux. Standard library, Python 3.9.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trtdist.containers import Container, Mount
from trtdist.errors import InputError, MissingError

__all__ = ["covered", "protect"]

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000  # unshare(2)
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 32, 4096, 16384, 1 << 19  # mount(2)
# Flags of a mount that a user namespace may not take away again; statvfs(3) and mount(2) number these alike.
_LOCKED = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC


def covered(container: Container, scratch: Path) -> Container:
    """The container with a mount point for each mount, where the image itself cannot get any.

    An empty folder of the image, such as /home, /mnt or /run, is covered by a folder in `scratch` that has what is
    missing. InputError when an image has neither the place nor an empty folder above it. An image that is one file
    cannot be looked into, and is left as it is.
    """
    image = Path(container.image)
    if not image.is_dir():
        return container
    covers: dict[str, Path] = {}
    for mount in container.mounts:
        above = _deepest(image, mount.target)
        if above == mount.target:
            continue
        if above == "/" or os.listdir(str(image) + above):
            raise InputError(
                f"the image {image} has no {mount.target} to mount at, and this release of charliecloud cannot make"
                f" it: `mkdir -p {image}{mount.target}`"
            )
        cover = covers.setdefault(above, scratch / str(len(covers)))
        _make(cover / mount.target[len(above) :].lstrip("/"), os.path.isdir(mount.source))
    first = tuple(Mount(str(cover), above) for above, cover in covers.items())
    return replace(container, mounts=first + container.mounts)


def _deepest(image: Path, target: str) -> str:
    """The longest part of a target that the image has."""
    path = os.path.normpath(target)
    while path != "/" and not os.path.lexists(str(image) + path):
        path = os.path.dirname(path)
    return path


def _make(point: Path, folder: bool) -> None:
    (point if folder else point.parent).mkdir(parents=True, exist_ok=True)
    if not folder:
        point.touch()


def protect(paths: Sequence[str]) -> None:
    """Have nothing that this process starts write to these paths, in a mount namespace of its own.

    MissingError when this node allows none, OSError naming the path that cannot be mounted.
    """
    if not paths:
        return
    uid, gid = os.getuid(), os.getgid()
    try:
        _call("unshare", _CLONE_NEWNS | (_CLONE_NEWUSER if uid else 0))
    except OSError as error:
        raise MissingError(
            f"node {socket.gethostname()} does not let users make namespaces ({error.strerror}), without which"
            " charliecloud can neither start containers nor keep mounts from being written to: have its administrators"
            " allow them (sysctl user.max_user_namespaces), or choose another container.runtime"
        ) from error
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _mount(None, "/", _MS_REC | _MS_SLAVE)
    for path in paths:
        kept = os.statvfs(path).f_flag & _LOCKED
        _mount(path, path, _MS_BIND | _MS_REC)
        _mount(None, path, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept)


def _mount(source: str | None, target: str, flags: int) -> None:
    told = None if source is None else os.fsencode(source)
    try:
        _call("mount", told, os.fsencode(target), None, ctypes.c_ulong(flags), None)
    except OSError as error:
        raise OSError(error.errno, f"{target} cannot be mounted: {error.strerror}") from error


def _call(name: str, *arguments: object) -> None:
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
