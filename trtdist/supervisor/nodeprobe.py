"""Looks at one node of a job and prints what it finds as a line of JSON.

Sent to each node as text (`python -I -S -c`), so that it needs nothing of the run directory, whose visibility it
checks, and imports nothing of ours. Standard library, Python 3.9.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import random
import re
import socket
import stat
import struct
import sys
import time
from pathlib import Path
from typing import Any, Union

__all__ = ["Unusable", "choose", "free_ports", "interfaces", "look", "mounted", "private_folder", "reach"]

_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B  # netdevice(7)
_OCTAL = re.compile(r"\\([0-7]{3})")
_CONNECT_S, _VISIBLE_S, _LOOK_AGAIN_S = 5.0, 20.0, 0.2
# Types of file systems that several machines share, as mountinfo names them; of those in user space only known ones.
_SHARED = frozenset(
    (
        *("afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs", "pvfs2"),
        *("smb3", "smbfs", "wekafs"),
        *("fuse.beegfs", "fuse.ceph", "fuse.glusterfs", "fuse.juicefs", "fuse.sshfs"),
    )
)
_SQUASHFS_SIZE_AT = 40
_ANY_PORT = 9  # nothing is sent to it


class Unusable(Exception):
    """What this node cannot do; the message ends a sentence that begins with the node's name."""


_Held = Union[ipaddress.IPv4Interface, ipaddress.IPv6Interface]


def interfaces() -> list[tuple[str, str]]:
    """The interfaces of this node, each with its address: IPv4, then the IPv6 addresses that others can use."""
    return [(name, str(held.ip)) for name, held in _held()]


def _held() -> list[tuple[str, _Held]]:
    """The same, each address with its network."""
    found: list[tuple[str, _Held]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            wanted = struct.pack("256s", name[:15].encode())
            try:
                answers = [fcntl.ioctl(asked, number, wanted) for number in (_SIOCGIFADDR, _SIOCGIFNETMASK)]
            except OSError:
                continue  # it has no IPv4 address
            address, mask = (socket.inet_ntoa(answer[20:24]) for answer in answers)
            found.append((name, ipaddress.IPv4Interface(f"{address}/{mask}")))
    try:
        lines = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    except OSError:
        lines = []
    for words in lines:
        held = ipaddress.IPv6Interface((bytes.fromhex(words[0]), int(words[2], 16)))
        if not held.ip.is_link_local:
            found.append((words[5], held))
    return found


def choose(interface: str, subnet: str, peers: list[str]) -> tuple[str, str]:
    """The interface and address at which other nodes reach this one; Unusable when there is none.

    The one that is named, else the one that lies in the subnet, else the one from which the first of `peers` (names of
    other nodes) would be reached, else the first that is not loopback.
    """
    there = interfaces()
    if interface:
        named = [(name, address) for name, address in there if name == interface]
        if not named:
            raise Unusable(f"has no address on network.interface {interface}; it has {_shown()}")
        return named[0]
    if subnet:
        network = ipaddress.ip_network(subnet, strict=False)
        inside = [(name, address) for name, address in there if ipaddress.ip_address(address) in network]
        if not inside:
            raise Unusable(f"has no address in network.subnet {subnet}; it has {_shown()}")
        return inside[0]
    outward = [(name, address) for name, address in there if not ipaddress.ip_address(address).is_loopback]
    routed = {source for source in map(_source, peers) if source}
    for name, address in [each for each in outward if each[1] in routed] + outward:
        return name, address
    raise Unusable(f"has no address that other nodes could reach; it has {_shown()}")


def _shown() -> str:
    """What there is, in words that are the same on all nodes that are alike."""
    return ", ".join(f"{held.network} on {name}" for name, held in _held()) or "none at all"


def _source(peer: str) -> str:
    """The address from which packets to another node would be sent, "" when its name leads nowhere."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(peer, _ANY_PORT, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as tried:
                tried.connect(address)
                return str(tried.getsockname()[0])
    except OSError:
        pass
    return ""


def private_folder(path: str) -> None:
    """Make the node-local folder, for this user alone; the folder above it may have been put there by somebody else.

    Unusable or OSError when that is impossible, Unusable too when the folder is not on this machine's own disk: etcd
    loses its leader when a write takes long, and sockets do not work across machines.
    """
    above = os.path.dirname(os.path.dirname(path))
    if os.stat(above).st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        raise Unusable(
            f"has a {above} where everybody may put his own in place of a folder: `chmod +t` it, or set TMPDIR"
        )
    for again in (True, True, False):
        try:
            _private_folder(path)
        except FileNotFoundError:
            # Another run of this user ended at this moment and removed the folder above.
            if again:
                continue
            raise
        break
    kind = mounted(os.path.realpath(path), Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
    if kind in _SHARED:
        raise Unusable(f"has its {path} on {kind}, which machines share: set TMPDIR to a folder on a disk of its own")


def _private_folder(path: str) -> None:
    for folder in (os.path.dirname(path), path):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        status = os.lstat(folder)
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            raise Unusable(f"has a {folder} that belongs to somebody else: remove it, or set TMPDIR to another folder")
        if status.st_mode & 0o077:
            os.chmod(folder, 0o700)


def mounted(path: str, mountinfo: str) -> str:
    """The type of the file system that a path without links lies on, "" when it is not told; proc_pid_mountinfo(5)."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        words, types = before.split(), after.split()
        if len(words) < 5 or not types:
            continue
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), words[4])
        # Of several on one point the last one hides the others.
        if len(point) >= len(best) and (point == "/" or (path + "/").startswith(point + "/")):
            best, kind = point, types[0]
    return kind


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """The report of this node: `address`, `interface`, `skew` (seconds that its clock is ahead of the head's), `python`
    (major and minor version), `ports`, and `problems`, each the end of a sentence that begins with the node's name.

    `asked` has `interface`, `subnet` and `peers` for `choose`, `local` (the node-local folder), `run` (the run
    directory), `spares` (names of nodes that need no folder yet), if the head node is to be reached its `head` (address
    and port) and `nonce`, what it says there, of containers that srun starts the `image` ("" when it is no path) and
    what they `mount`, and `wanted`, how many free ports each node is to name, with `range`, the first and the last that
    may be taken. A line of JSON says before each check what it is, since a file system may never answer.
    """
    node = os.environ.get("SLURMD_NODENAME", "")
    report: dict[str, Any] = {"node": node, "python": list(sys.version_info[:2]), "problems": [], "ports": []}
    checks = {
        "looking for its address": _address,
        f"looking for {asked['run']} and {asked['local']}": _folders,
        "reaching the head node": _head,
        "looking for what its containers need": _container,
        "looking for free ports": _ports,
    }
    for what, check in checks.items():
        _tell({"node": node, "at": what})
        try:
            report.update(check({**asked, **report}))
        except Unusable as problem:
            report["problems"].append(str(problem))
        except OSError as error:
            report["problems"].append(f"cannot use {error.filename}: {error.strerror}")
    return report


def _tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def _address(asked: dict[str, Any]) -> dict[str, Any]:
    interface, address = choose(asked["interface"], asked["subnet"], asked["peers"])
    return {"interface": interface, "address": address}


def _folders(asked: dict[str, Any]) -> dict[str, Any]:
    private_folder(asked["local"])
    end = time.monotonic() + _VISIBLE_S
    # A shared file system may show files of another machine seconds later.
    while not os.path.isfile(os.path.join(asked["run"], "plan.json")):
        if time.monotonic() > end:
            raise Unusable(
                f"does not see the run directory {asked['run']}: put runs on a file system that all nodes see"
            )
        time.sleep(_LOOK_AGAIN_S)
    if os.environ.get("SLURMD_NODENAME") in asked.get("spares", []):
        _remove(asked["local"])
    return {}


def _remove(path: str) -> None:
    """Nobody would be there to remove it when the job ends."""
    with contextlib.suppress(OSError):
        os.rmdir(path)
        os.rmdir(os.path.dirname(path))


def _container(asked: dict[str, Any]) -> dict[str, Any]:
    """What srun's plugin would only say among many lines, and after unpacking the image."""
    problems = [
        f"has no {path} to mount: make it there, or take it out of container.mounts"
        for path in asked["mount"]
        if not os.path.exists(path)
    ]
    if asked["image"]:
        problems += _image(asked["image"])
    if problems:
        raise Unusable("; it ".join(problems))
    return {}


def _image(path: str) -> list[str]:
    """What is wrong with a squashfs file, by its superblock (squashfs_fs.h in the kernel): how long it is to be."""
    try:
        with open(path, "rb") as file:
            start, size = file.read(_SQUASHFS_SIZE_AT + 8), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return [f"has no image {path}: copy it there, or put it on a file system that all nodes see"]
    except OSError as error:
        return [f"cannot read the image {path}: {error.strerror}: make it readable there for the user of the job"]
    if start[:4] != b"hsqs" or len(start) < _SQUASHFS_SIZE_AT + 8:
        return [f"sees in {path} no squashfs image: `trtdist image import {path}` makes one"]
    (whole,) = struct.unpack_from("<Q", start, _SQUASHFS_SIZE_AT)
    return [] if size >= whole else [f"sees {size} of the {whole} bytes of the image {path}: copy it there again"]


def _head(asked: dict[str, Any]) -> dict[str, Any]:
    """Reach the head node, which says its nonce and its time; `asked` has what `_address` found as well."""
    if "head" not in asked:
        return {"skew": 0.0, "round_trip": 0.0}
    address, port = asked["head"]
    here = f" from {asked['address']} on {asked['interface']}" if "address" in asked else ""
    skew, round_trip = reach("the head node", address, port, asked["nonce"], here)
    return {"skew": skew, "round_trip": round_trip}


def _ports(asked: dict[str, Any]) -> dict[str, Any]:
    count = asked.get("wanted", {}).get(os.environ.get("SLURMD_NODENAME", ""), 0)
    return {"ports": free_ports(asked["address"], count, *asked["range"])} if count and "address" in asked else {}


def free_ports(address: str, count: int, low: int, high: int) -> list[int]:
    """So many ports from `low` to `high` that nobody uses now, at random; Unusable when there are fewer."""
    choice = list(range(low, high + 1))
    random.shuffle(choice)
    held: list[socket.socket] = []
    try:
        for port in choice:
            if len(held) == count:
                break
            one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            try:
                one.bind((address, port))
            except OSError:
                one.close()
            else:
                held.append(one)
        if len(held) < count:
            raise Unusable(f"has no {count} free ports from {low} to {high}: widen network.port_range")
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def reach(whom: str, address: str, port: int, nonce: str, here: str = "") -> tuple[float, float]:
    """How many seconds the clock here is ahead of that of another node, and how long it took to ask; the other has a
    Greeter with this nonce. Unusable when it cannot be reached; `here` says from where."""
    before = time.time()
    try:
        with socket.create_connection((address, port), timeout=_CONNECT_S) as connection:
            said = connection.recv(256).decode("ascii", "replace").split()
    except OSError as error:
        raise Unusable(f"cannot reach {whom} at {address} port {port}{here} ({error})") from error
    after = time.time()
    if len(said) != 2 or said[0] != nonce:
        raise Unusable(f"reaches another machine than {whom} at {address} port {port}")
    return (before + after) / 2 - float(said[1]), after - before


if __name__ == "__main__":
    _tell(look(json.loads(sys.argv[1])))
