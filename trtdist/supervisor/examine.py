"""Looks at one node for `doctor`, and prints a line of JSON with what it finds there and where it listens.

Reads from standard input where the others listen, and prints a second line with whom it reaches. It listens until its
input ends.

Sent to each node as text, together with what it imports, so that it needs nothing but a Python there. Everything that
it makes it removes, but for one file in the folder that it is asked to write to. Standard library, Python 3.9.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from trtdist.containers.image_formats import here, recognised
from trtdist.errors import InputError, MissingError
from trtdist.services.binaries import find_binary
from trtdist.supervisor.gpu_driver import Driver, driver_of
from trtdist.supervisor.greeter import Greeter
from trtdist.supervisor.nodeprobe import Unusable, choose, interfaces, reach

__all__ = ["LEAKING", "free_bytes", "leaking", "listener", "look", "main", "meet", "service"]

LEAKING = ("UCX_", "OMPI_MCA_", "NCCL_", "PYXIS_CONTAINER_")
"""Variables of a site or a shell that begin so bend engines."""

_PROGRAM_S, _SEEN_S, _LOOK_AGAIN_S = 10.0, 10.0, 0.1
_AT_ONCE = 32
_SHM = "/dev/shm"
_ENROOT = "/etc/enroot"

_Answer = TypeVar("_Answer")


def look(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What this node finds in and around itself.

    `asked` has `nodes` (the names of all), `interface` and `subnet` as for `nodeprobe.choose`, `folder` (to write to),
    `python` (that of the run), `image` (a path, or ""), `mounts` (their sources), `programs` (names whose version is
    wanted), `services` (names with the program that is given for each, or ""), `gpus` (what asks for GPUs), `unpacks`
    (whether enroot unpacks the image), and `driver` (None unless the image must have NVIDIA's driver: then the mounts
    that could bring it). Before each part a line of JSON says what it is, since a file system or a program may never
    answer.
    """
    found: dict[str, Any] = {
        "python": list(sys.version_info[:2]),
        "executable": sys.executable,
        "machine": here(),
        "limits": {name: resource.getrlimit(kind)[0] for name, kind in _LIMITS.items()},
        "leaking": leaking(os.environ),
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES", "all"),
    }
    _begin(f"looking for the Python {asked['python']}")
    found["run_python"] = os.access(asked["python"], os.X_OK)
    _begin("looking up the names of the nodes")
    found["unresolved"] = [name for name, there in _at_once(_resolves, asked["nodes"]) if not there]
    _begin(f"writing to the runs folder {os.path.dirname(asked['folder'])}")
    found["write_problem"] = _write(asked["folder"])
    found["mounts_missing"] = list(filter(_missing, asked["mounts"]))
    _begin(f"looking at the image {asked['image']}")
    found["image"] = _image(asked["image"], asked["driver"])
    _begin("asking for the container runtime")
    found["programs"] = {name: _version(shutil.which(name) or "") for name in asked["programs"]}
    found["hooks"] = _hooks()
    found["unpacked"] = _enroot_data() if asked["unpacks"] else {}
    _begin("asking for NATS and etcd")
    found["services"] = {name: service(name, given) for name, given in asked["services"].items()}
    _begin("looking at its temporary folder and shared memory")
    found["temporary"] = {"path": tempfile.gettempdir(), "free": free_bytes(tempfile.gettempdir())}
    found["shm"] = {"free": free_bytes(_SHM), "left": _left_in_shm()}
    _begin("asking for GPUs")
    found["gpus"] = _gpus(asked["gpus"])
    return found


def _missing(path: str) -> bool:
    _begin(f"looking for {path}, which is to be mounted")
    return not os.path.exists(path)


def _at_once(ask: Callable[[Any], _Answer], each: Sequence[Any]) -> list[tuple[Any, _Answer]]:
    """Each with its answer; those that are slow to answer, such as names that nobody knows, are awaited together."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(zip(each, pool.map(ask, each)))


_LIMITS = {"memlock": resource.RLIMIT_MEMLOCK, "stack": resource.RLIMIT_STACK, "nofile": resource.RLIMIT_NOFILE}


def leaking(environ: Mapping[str, str]) -> list[str]:
    """The names of variables that bend engines."""
    return sorted(name for name in environ if name.startswith(LEAKING))


def free_bytes(path: str) -> int:
    """How much a user can still write at a path, or where it would be made; 0 when that cannot be told."""
    folder = path
    while folder != "/" and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _enroot_data() -> dict[str, Any]:
    """Where enroot unpacks images, as its environment or /etc/enroot/enroot.conf say."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    place = os.environ.get("ENROOT_DATA_PATH") or _configured("ENROOT_DATA_PATH") or os.path.join(base, "enroot")
    return {"path": place, "free": free_bytes(place)}


def _configured(name: str) -> str:
    """A setting of enroot's, "" when it has none. A shell reads it there; of commands only that is known which sites
    give each user a folder with."""
    try:
        lines = Path(os.environ.get("ENROOT_SYSCONF_PATH", _ENROOT), "enroot.conf").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    values = [words[1] for words in (line.split(None, 1) for line in lines) if len(words) == 2 and words[0] == name]
    return os.path.expandvars(values[-1].strip().replace("$(id -u)", str(os.getuid()))) if values else ""


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False


def _name() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _write(folder: str) -> str:
    """Why nothing can be written to the folder; "" when it can."""
    try:
        with open(os.path.join(folder, _name()), "w") as file:
            file.write("here\n")
    except FileNotFoundError:
        return "it is not there"
    except OSError as error:
        return str(error.strerror)
    return ""


def _image(path: str, driver: Sequence[tuple[str, str]] | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        found = recognised(Path(path))
    except InputError as error:
        return {"problem": str(error)}
    known = driver_of(path, driver) if driver is not None else Driver()
    return {**known._asdict(), "format": found.format, "size": found.size, "architecture": found.architecture}


def _version(program: str) -> str:
    """The path and what the program says of its version; "" when it is not there."""
    if not program:
        return ""
    # Enroot has no such option, and a command for it.
    said = _said([program, "version" if os.path.basename(program) == "enroot" else "--version"])
    return " ".join([program, *said.splitlines()[:1]])


def service(name: str, given: str) -> dict[str, str]:
    """The program that a run here would start for `nats` or `etcd`, and its version, or what is missing."""
    try:
        program = find_binary(name, os.environ, given)
    except MissingError as error:
        return {"problem": str(error)}
    lines = _said([program, "--version"]).splitlines() or [""]
    return {"problem": "", "path": program, "version": lines[0].split(" ")[-1].lstrip("v")}


def _said(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROGRAM_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout or done.stderr if done.returncode == 0 else ""


def _hooks() -> list[str]:
    """The hooks of enroot that the site has put in place."""
    folder = os.path.join(os.environ.get("ENROOT_SYSCONF_PATH", _ENROOT), "hooks.d")
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _gpus(query: list[str]) -> dict[str, Any]:
    """What nvidia-smi lists, line by line, or why it does not."""
    if not query:
        return {}
    try:
        done = subprocess.run(
            query, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PROGRAM_S, check=False
        )
    except FileNotFoundError:
        return {"problem": f"there is no {query[0]}", "lines": []}
    except subprocess.TimeoutExpired:
        return {"problem": f"{query[0]} does not answer within {_PROGRAM_S:g} s", "lines": []}
    except OSError as error:
        return {"problem": f"{query[0]} cannot be started: {error.strerror}", "lines": []}
    problem = "" if done.returncode == 0 else " ".join((done.stdout + done.stderr).split())
    return {"problem": problem, "lines": done.stdout.splitlines()}


def _left_in_shm() -> dict[str, int]:
    """Files of this user in /dev/shm that no process of theirs has mapped, with their bytes."""
    found = {}
    try:
        for entry in os.scandir(_SHM):
            status = entry.stat(follow_symlinks=False)
            if status.st_uid == os.getuid() and entry.is_file(follow_symlinks=False):
                found[entry.name] = status.st_blocks * 512
    except OSError:
        return {}
    used = _mapped() if found else ""
    return {name: size for name, size in found.items() if f"{_SHM}/{name}" not in used}


def _mapped() -> str:
    """What processes that this user may look into have mapped of /dev/shm."""
    lines = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = Path("/proc", pid, "maps").read_text(errors="replace")
        except OSError:
            continue
        lines += [line for line in text.splitlines() if _SHM in line]
    return "\n".join(lines)


def listener(asked: Mapping[str, Any]) -> socket.socket:
    """A socket at the address that others use, on a port of `ports` or any. Unusable when there is none."""
    others = [name for name in asked["nodes"] if name != _name()]
    _, address = choose(asked["interface"], asked["subnet"], others[:1])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    low, high = asked["ports"] or (0, 0)
    for port in range(low, high + 1):
        try:
            return socket.create_server((address, port), family=family, backlog=1024)
        except OSError as error:
            problem = error
    raise Unusable(f"cannot listen at {address} on any port of {low}-{high} ({problem.strerror})")


def meet(asked: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Whom this node reaches, and whose files in the folder it sees.

    `told` has `peers` (each with name, address, port and nonce; the head node first) and `files` (names to see).
    """
    peers, name = told["peers"], _name()
    head = peers[0]["node"] if peers else ""
    found: dict[str, Any] = {"unreached": {}, "skew": 0.0, "round_trip": 0.0}
    # The head node is reached by all, and reaches all; what others have to say among each other is the engine's own.
    _begin("reaching " + ("the other nodes" if name == head else "the head node"))
    for peer, answer in _at_once(_reach, peers[1:] if name == head else peers[:1]):
        if isinstance(answer, str):
            found["unreached"][peer["node"]] = answer
        elif name != head:
            found["skew"], found["round_trip"] = answer
    _begin(f"looking for what the others wrote to {os.path.dirname(asked['folder'])}")
    return {**found, "unseen": _unseen(asked["folder"], told["files"])}


def _reach(peer: Mapping[str, Any]) -> tuple[float, float] | str:
    """How far the clock here is ahead and how long it took to ask, or why the node cannot be reached."""
    try:
        return reach(f"node {peer['node']}", peer["address"], peer["port"], peer["nonce"])
    except Unusable as problem:
        return str(problem)


def _unseen(folder: str, names: list[str]) -> list[str]:
    """The files that do not show up; a shared file system may take seconds over those of another machine."""
    end = time.monotonic() + _SEEN_S
    while True:
        missing = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
        if not missing or not os.path.isdir(folder) or time.monotonic() > end:
            return missing
        time.sleep(_LOOK_AGAIN_S)


def main(asked: Mapping[str, Any]) -> None:
    """Both lines, and the wait for the others."""
    try:
        socket_ = listener(asked)
    except (Unusable, OSError) as problem:
        _tell({**look(asked), "address": "", "address_problem": str(problem)})
        _after(asked)
        return
    address, port = socket_.getsockname()[:2]
    with Greeter(socket_) as greeter:
        interface = next((name for name, held in interfaces() if held == address), "")
        where = {"address": address, "interface": interface, "port": port, "nonce": greeter.nonce}
        _tell({**look(asked), **where})
        _after(asked)


def _after(asked: Mapping[str, Any]) -> None:
    line = sys.stdin.readline()
    if line:
        _tell({"met": meet(asked, json.loads(line))})
        sys.stdin.read()


def _begin(what: str) -> None:
    _tell({"at": what})


def _tell(found: Mapping[str, Any]) -> None:
    print(json.dumps({"node": _name(), **found}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
