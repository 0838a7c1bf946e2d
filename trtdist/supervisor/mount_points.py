"""What a runtime cannot do about mounts and this program does before it: places to mount at, mounts that cannot be
written to. Linux. Standard library, Python 3.9.
"""

from __future__ import annotations

import ctypes
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from trtdist.containers import Container, Mount
from trtdist.containers.image_tree import inside
from trtdist.errors import InputError, MissingError

__all__ = ["covered", "protect"]

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000  # unshare(2)
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 1, 32, 4096, 16384, 1 << 19  # mount(2)
# Flags of a mount that a user namespace may not take away again; statvfs(3) and mount(2) number these alike.
_LOCKED = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
# Each of so many that a covered folder has becomes a mount.
_MOST = 100


def covered(container: Container, scratch: Path) -> tuple[Container, list[Mount]]:
    """The container with a mount point for each mount, where the image itself cannot get any, and what is to be mounted
    for that before it is entered.

    A folder of the image, such as /home, /run or /var/spool, is covered by one in `scratch` that has what is missing,
    and into which that is mounted which the image has there. Targets that lead through links of the image become what
    they lead to. InputError when there is nothing to cover but the root, too much in it, no folder, or one that a mount
    before hides. An image that is one file cannot be looked into, and is left as it is.
    """
    image = Path(container.image)
    if not image.is_dir():
        return container, []
    missing: dict[str, list[Mount]] = {}
    mounts: list[Mount] = []
    for mount in container.mounts:
        target, over = _place(image, mount.target, mounts)
        mounts.append(replace(mount, target=target))
        if over is not None:
            _there(over, mounts[-1])
        elif (above := _deepest(image, target)) != target:
            missing.setdefault(above, []).append(mounts[-1])
    first: list[Mount] = []
    before: list[Mount] = []
    # What lies within another that is covered comes after it.
    for above, wanting in sorted(missing.items()):
        names, there = _names(image, above, wanting[0]), Path(f"{image}{above}")
        # Always another, since a task that is started again would find in its own what the image no longer has.
        cover = Path(tempfile.mkdtemp(prefix="cover.", dir=scratch))
        for mount in wanting:
            _make(cover / mount.target[len(above) :].lstrip("/"), os.path.isdir(mount.source))
        first.append(Mount(str(cover), above))
        before += [Mount(str(there / name), str(cover / name)) for name in _shown(there, names, cover)]
    return replace(container, mounts=(*first, *mounts)), before


def _place(image: Path, target: str, before: Sequence[Mount]) -> tuple[str, Mount | None]:
    """Where a target is when the links of the image are followed, and which of the mounts before it has that place."""
    parts = os.path.normpath(target).strip("/").split("/")
    path = "/"
    for count in range(1, len(parts) + 1):
        try:
            path = os.path.normpath(f"/{inside(image, '/'.join(parts[:count])).relative_to(image)}")
        except OSError as error:
            what = f"nothing can be mounted at {target} in the image {image} ({error})"
            raise InputError(f"{what}: mend the links or permissions there") from error
        for mount in reversed(before):
            if f"{path}/".startswith(f"{mount.target}/"):
                return os.path.join(path, *parts[count:]), mount
    return path, None


def _there(over: Mount, mount: Mount) -> None:
    """InputError unless a folder that is mounted has the place for a mount within it; nothing is made in it."""
    place = f"{over.source}{mount.target[len(over.target) :]}"
    if not os.path.lexists(place):
        raise InputError(
            f"{mount.source} is to be mounted at {mount.target}, and {over.source}, which is mounted at {over.target},"
            f" has no place for it: make {place}, or correct container.mounts"
        )


def _names(image: Path, above: str, mount: Mount) -> list[str]:
    """What a folder that is to be covered has; InputError when it cannot be covered."""
    there = f"{image}{above}"
    if not os.path.isdir(there):
        raise InputError(
            f"{there} is a file, so that nothing can be mounted at {mount.target}: correct container.mounts"
        )
    if not os.access(there, os.R_OK | os.X_OK, effective_ids=True):
        raise InputError(f"{there} cannot be read, which mounting at {mount.target} needs: `chmod u+rx {there}`")
    names = os.listdir(there)
    if above == "/" or len(names) > _MOST:
        child = os.path.join(above, mount.target[len(above) :].strip("/").split("/")[0])
        raise InputError(
            f"the image {image} has no {mount.target} to mount at, and this release of charliecloud cannot make it:"
            f" `mkdir {image}{child}`"
        )
    return names


def _shown(folder: Path, names: Sequence[str], cover: Path) -> Iterator[str]:
    """Those of a folder that are to be mounted into its cover, where they get a place; links are copied."""
    for name in names:
        if (folder / name).is_symlink():
            with suppress(FileExistsError):
                (cover / name).symlink_to(os.readlink(folder / name))
        else:
            _make(cover / name, (folder / name).is_dir())
            yield name


def _deepest(image: Path, target: str) -> str:
    """The longest part of a target, which leads through no links, that the image has."""
    path = target
    while path != "/" and not os.path.lexists(str(image) + path):
        path = os.path.dirname(path)
    return path


def _make(point: Path, folder: bool) -> None:
    (point if folder else point.parent).mkdir(parents=True, exist_ok=True)
    if not folder:
        point.touch()


def protect(paths: Sequence[str], before: Sequence[Mount]) -> None:
    """Mount what is to be there before the container is entered, and have nothing that this process starts write to
    these paths, in a mount namespace of its own.

    MissingError when this node allows none, OSError naming the path that cannot be mounted.
    """
    if not paths and not before:
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
    for mount in before:
        _mount(mount.source, mount.target, _MS_BIND | _MS_REC)
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
