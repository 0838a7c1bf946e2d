"""`python -m trtdist.supervisor.enter --runtime R --image I [OPTION ...] -- PROGRAM [ARG ...]`: becomes PROGRAM in a
container.

Runs on the node, outside. Says what is missing there before anything starts, also as an event: the refusal of the
task that TRTDIST_ENTERS names. Of the ranks of a step on a node, one says it. Then hands the program exactly the
variables of the run, of the step and of MPI (`CROSSING`), whatever the image and the site say about them. Ends as the
program ends. TRTDIST_LOCAL_DIR names a folder of the node that is seen inside too. Standard library, Python 3.9.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from trtdist.containers import RUNTIMES, Caller, Container, ContainerRuntime, Mount, runtime
from trtdist.containers.base import is_path
from trtdist.containers.image_formats import here, recognised
from trtdist.containers.image_open import openers
from trtdist.errors import InputError, MissingError, TrtdistError
from trtdist.events import EventWriter, TaskRefused
from trtdist.images import FILES, problems_of, read_record
from trtdist.process import start_ticks
from trtdist.rundir import RunDir
from trtdist.supervisor import mount_points
from trtdist.supervisor.gpu_driver import driver_of

__all__ = ["CROSSING", "container_of", "enter", "main", "pmix_folders"]

_CUDA = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
# What begins so is of the run, of the step or of MPI, and is needed inside.
CROSSING = ("TRTDIST_", "SLURM", "PMIX_", "PMI_", "OMPI_COMM_", "OMPI_UNIVERSE_SIZE", *_CUDA)
# Bash reads the variables, each ended by NUL, so that any value arrives.
_LOADER = 'while IFS= read -r -d "" NAME; do export "${NAME?}"; done <"$1"; unset NAME; shift; exec "$@"'
_RC = 'exec "$@"\n'
_LIMITS = {
    "core": resource.RLIMIT_CORE,
    "memlock": resource.RLIMIT_MEMLOCK,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "stack": resource.RLIMIT_STACK,
}


def container_of(given: argparse.Namespace, environ: Mapping[str, str], uid: int) -> Container:
    """The container that the arguments describe, with what every run mounts: its folder, the Python in it without the
    right to write, the folder on the node, and what MPI has put on the node for this step."""
    run, home = environ.get("TRTDIST_RUN_DIR", ""), environ.get("HOME", "") if given.home else ""
    own = [Mount(path, path) for path in (home, run, environ.get("TRTDIST_LOCAL_DIR", "")) if path]
    site = [Mount(f"{run}/site", f"{run}/site", writable=False)] if run else []
    pmix = [Mount(path, path) for path in pmix_folders(environ, uid)]
    return Container(
        image=given.image,
        mounts=(*map(Mount.parse, given.mount), *own, *site, *pmix),
        writable=given.writable,
        home=home,
        gpus=given.gpus,
        shm_size=given.shm_size,
        ulimits=tuple(map(_limit, given.ulimit)),
        variables=tuple(given.variable),
        label=environ.get("TRTDIST_RUN_ID", ""),
    )


def _limit(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    return name, int(value)


def pmix_folders(environ: Mapping[str, str], uid: int) -> list[str]:
    """The folders in which the PMIx server of this step meets its clients, none of them within another."""
    step = _slurm_step(environ)
    named = [environ.get("PMIX_SERVER_TMPDIR", ""), environ.get("PMIX_DSTORE_21_BASE_PATH", "")]
    # Where Slurm has its clients make their session folders (src/plugins/mpi/pmix).
    temporary = environ.get("PMIX_SYSTEM_TMPDIR") or environ.get("TMPDIR") or "/tmp"
    named += [f"{temporary}/spmix_appdir_{uid}_{step}", f"/tmp/spmix_appdir_{uid}_{step}"]
    there = sorted({os.path.normpath(path) for path in named if os.path.isabs(path) and os.path.isdir(path)})
    return [path for path in there if not any(path.startswith(f"{other}/") for other in there)]


def enter(name: str, container: Container, argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Become `argv` in the container; returns never. TrtdistError when that is impossible."""
    way = runtime(name)
    if not os.path.isdir(environ.get("TRTDIST_LOCAL_DIR", "")):
        raise InputError("TRTDIST_LOCAL_DIR names no folder: make one of your own on this node, and set it to that")
    # Without it ch-run prints not even its help.
    environ = {"USER": str(os.getuid()), **environ}
    if way.program:
        _check(name, way, container, environ)
    scratch = Path(environ["TRTDIST_LOCAL_DIR"])
    inside = {**{key: value for key, value in environ.items() if key.startswith(CROSSING)}, "TRTDIST_INSIDE": name}
    inside["HOME"] = container.home or str(_private(scratch / "home"))
    if way.outlives_caller:
        inside["TRTDIST_CALLER"] = f"{os.getpid()} {start_ticks(os.getpid())}"
    task = f"{environ.get('TRTDIST_STEP', 'step')}.{environ.get('SLURM_PROCID', '0')}"
    variables = scratch / f"environment.{task}"
    _write(variables, "".join(f"{key}={value}\0" for key, value in inside.items()))
    rc = scratch / f"rc.{task}"
    _write(rc, _RC)
    listed = os.path.isfile(container.image) or os.path.isfile(f"{container.image}/ch/environment")
    caller = Caller(os.getuid(), os.getgid(), _help(way, environ), str(rc), listed)
    before: Sequence[Mount] = ()
    if not way.makes_mount_points(caller) and not container.writable:
        container, before = mount_points.covered(container, scratch)
    if not way.sets_limits:
        _set_limits(container)
    if not way.mounts_read_only:
        mount_points.protect([mount.source for mount in container.mounts if not mount.writable], before)
    words = way.command(container, ["bash", "-c", _LOADER, "bash", str(variables), *argv], caller)
    os.execvpe(words[0], words, environ)


def _check(name: str, way: ContainerRuntime, container: Container, environ: Mapping[str, str]) -> None:
    """MissingError names everything at once that this node lacks."""
    problems = []
    if shutil.which(way.program, path=environ.get("PATH")) is None:
        problems.append(f"has no {way.program}: install {name} there, or choose another container.runtime")
    if is_path(container.image):
        problems += _image_problems(name, container.image) or _driver_problems(name, container)
    for mount in container.mounts:
        if not os.path.exists(mount.source):
            problems.append(f"has no {mount.source} to mount: make it there, or take it out of container.mounts")
    if problems:
        node = environ.get("SLURMD_NODENAME") or socket.gethostname()
        raise MissingError(f"node {node} {'; it '.join(problems)}")


def _driver_problems(name: str, container: Container) -> list[str]:
    if name != "charliecloud" or not container.gpus:
        return []
    problem = driver_of(container.image, [(mount.source, mount.target) for mount in container.mounts]).problem
    return [f"cannot use the image: {problem}"] if problem else []


def _image_problems(name: str, image: str) -> list[str]:
    if os.path.isdir(image):
        return _folder_problems(name, image)
    if name == "docker":
        return [f"has {image} as a file, and docker takes an image by its name: `docker load --input {image}`"]
    return _unusable(name, Path(image))


def _folder_problems(name: str, image: str) -> list[str]:
    if not os.access(image, os.R_OK | os.X_OK):
        return [f"cannot read the image {image} (Permission denied): mend its permissions there"]
    if not any(os.access(f"{image}/{folder}/bash", os.X_OK) for folder in ("bin", "usr/bin")):
        return [f"finds no bash in the image {image}: correct container.image, which names no root folder of a system"]
    found = os.stat(image)
    if name == "podman" and os.getuid() and (found.st_uid, found.st_gid) != (os.getuid(), os.getgid()):
        return [f"has in {image} an image of somebody else's, which podman cannot use: make a copy that is yours"]
    return _unusable(name, Path(image))


def _unusable(name: str, image: Path) -> list[str]:
    """What the first bytes of an image and its record say against it, as far as they tell."""
    record = read_record(image.parent)
    problems = problems_of(image.parent) if record is not None and image.name == FILES[record.format] else []
    if problems:
        return [f"sees the image {image} not whole ({'; '.join(problems)}): import or copy it there again"]
    try:
        found = recognised(image)
    except InputError as error:
        return [f"cannot use the image: {error}"]
    if not openers(found.format, name, None):
        wanted = f"import it with `trtdist image import --runtime {name}`"
        return [f"has in {image} what {name} does not start ({found.format}): {wanted}"]
    architecture = found.architecture or (record.architecture if record is not None else "")
    if architecture not in ("", here()):
        wanted = f"import it with `trtdist image import --arch {here()}`"
        return [f"is {here()}, and the image {image} is made for {architecture}: {wanted}"]
    return []


def _help(way: ContainerRuntime, environ: Mapping[str, str]) -> str:
    """What the program says of its options, in which releases differ."""
    if not way.asks_for_help:
        return ""
    words = [way.program, "--help"]
    done = subprocess.run(
        words, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def _set_limits(container: Container) -> None:
    for name, value in container.ulimits:
        kind = _LIMITS.get(name)
        if kind is None:
            raise InputError(f"container.ulimits: {name} is none of {', '.join(_LIMITS)}")
        limit = resource.RLIM_INFINITY if value < 0 else value
        try:
            resource.setrlimit(kind, (limit, limit))
        except (ValueError, OSError) as error:
            highest = resource.getrlimit(kind)[1]
            raise InputError(
                f"node {socket.gethostname()} does not allow container.ulimits {name}={value}, at most {highest}: ask"
                f" its administrators, or lower it ({error})"
            ) from error


def _private(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trtdist.supervisor.enter", allow_abbrev=False)
    parser.add_argument("--runtime", required=True, choices=RUNTIMES)
    parser.add_argument("--image", required=True)
    parser.add_argument("--mount", action="append", default=[])
    parser.add_argument("--variable", action="append", default=[])
    parser.add_argument("--ulimit", action="append", default=[])
    parser.add_argument("--home", action="store_true")
    parser.add_argument("--shm-size", default="")
    parser.add_argument("--writable", action="store_true")
    parser.add_argument("--gpus", action="store_true")
    parser.add_argument("program", nargs="+")
    return parser


def _refuse(why: str, environ: Mapping[str, str]) -> None:
    """Say why on standard error, and as the cause of the run's end, since no shim of the task was started that could.
    This process has to end then.

    All ranks of a step lack the same on a node, so one of them says it. The first that ends has the whole step killed:
    none ends before it is said, and no TERM cuts it short.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    said = _turn(environ)
    if said is not None and os.fstat(said).st_size:
        return
    _make_known(why, environ)
    with suppress(OSError):
        # In one piece: print() of a Python that does not buffer writes the end of the line by itself.
        sys.stderr.write(f"trtdist: {why}\n")
    if said is not None:
        # Even a full disk has room for that.
        os.ftruncate(said, 1)


def _turn(environ: Mapping[str, str]) -> int | None:
    """A file of this step on this node, empty until a rank has refused; others wait for it until this process has
    ended. None for a program that is no rank, or where there can be no such file."""
    step, name = environ.get("TRTDIST_STEP", ""), environ.get("TRTDIST_ENTERS", "")
    folder = environ.get("TRTDIST_LOCAL_DIR")
    if name == step or not folder:
        return None
    with suppress(OSError):
        path = f"{folder}/refused.{_slurm_step(environ)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor
    return None


def _slurm_step(environ: Mapping[str, str]) -> str:
    return f"{environ.get('SLURM_JOB_ID')}.{environ.get('SLURM_STEP_ID')}"


def _make_known(why: str, environ: Mapping[str, str]) -> None:
    run, step, name = (environ.get(key, "") for key in ("TRTDIST_RUN_DIR", "TRTDIST_STEP", "TRTDIST_ENTERS"))
    if not (run and step and name):
        return
    with suppress(OSError):
        events = EventWriter(RunDir(Path(run)).event_file(f"enter.{name}"))
        events.write(TaskRefused(step, name, f"cannot enter its container: {why}"))
        events.close()


def main(arguments: Sequence[str]) -> int:
    """Become the program that the arguments name; returns an exit code when that is impossible."""
    given = _parser().parse_args(arguments)
    try:
        enter(given.runtime, container_of(given, os.environ, os.getuid()), given.program, os.environ)
    except TrtdistError as error:
        _refuse(str(error), os.environ)
        return error.exit_code
    except OSError as error:
        _refuse(f"the container cannot be started: {error}", os.environ)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
