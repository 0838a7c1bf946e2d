"""Makes the run directory of a run: all that the supervisor needs to bring it up."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from functools import partial
from importlib.util import cache_from_source
from pathlib import Path

from trtdist.cli.given import Given, given_local, given_slurm, own_services
from trtdist.containers import Mount, runtime
from trtdist.errors import InputError, MissingError, TrtdistError
from trtdist.newrun import make_run, point_to, stamped
from trtdist.plan import Plan, to_json
from trtdist.rendering import render_local, render_slurm, site_files
from trtdist.rendering.containers import step_mounts
from trtdist.rundir import RunDir, runs_root, write_atomic
from trtdist.services.binaries import find_binary, find_mpiexec, require_all, require_packages
from trtdist.services.envfile import write_env
from trtdist.topology import dump, redacted
from trtdist.topology.model import Topology

__all__ = ["prepare_local", "prepare_slurm", "require_programs"]

_PACKAGES = {"reference": ("nats", "numpy", "mpi4py"), "tensorrt_llm": ("nats", "tensorrt_llm", "mpi4py")}
# Packages and programs of the runtimes that are not ours.
_FOREIGN = {
    "trtllm-serve": (("nats", "tensorrt_llm"), ("trtllm-serve", "trtllm-llmapi-launch")),
    "dynamo": (("nats", "tensorrt_llm", "dynamo"), ("trtllm-llmapi-launch",)),
}
_NATS = partial(require_packages, ("nats",))
_FULL = (errno.ENOSPC, errno.EDQUOT)


def prepare_local(topology: Topology, plan: Plan, *, environ: Mapping[str, str], now: float) -> RunDir:
    """Make a run directory below the runs folder, and point `latest` to it; `now` (epoch seconds) is in its name.

    It appears complete or, also after Ctrl-C, not at all. MissingError when a program or package is not there,
    InputError when this machine cannot run it or the runs folder cannot be used, TrtdistError when the disk is full.
    """
    require_programs(topology, environ)
    scripts = {f"scripts/{name}": text for name, text in render_local(plan, topology).items()}
    return _prepare(topology, plan, scripts, given_local(topology, environ, now), environ, now)


def prepare_slurm(topology: Topology, plan: Plan, *, environ: Mapping[str, str], now: float) -> RunDir:
    """The same for a run through Slurm; its programs and packages are looked for on the nodes."""
    root = os.path.abspath(runs_root(environ))
    # InputError for a runs folder that srun could not mount.
    step_mounts(topology, Mount(root, root))
    return _prepare(topology, plan, render_slurm(plan, topology), given_slurm(topology, now), environ, now)


def _prepare(
    topology: Topology, plan: Plan, files: Mapping[str, str], given: Given, environ: Mapping[str, str], now: float
) -> RunDir:
    root = Path(os.path.abspath(runs_root(environ)))
    _refuse_unspeakable(root)
    name = stamped(topology.name, now)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return make_run(root, name, lambda run: _fill(run, topology, plan, files, given), point_to)
    except OSError as error:
        raise _unusable(root, error) from error


def require_programs(topology: Topology, environ: Mapping[str, str]) -> None:
    """MissingError names the programs and packages that a run on this machine needs and does not find."""
    container = topology.container
    binaries = [partial(find_binary, name, environ, binary) for name, binary in own_services(topology).items()]
    if container.runtime != "none":
        # The image brings what ranks need; whether it does shows inside.
        require_all([*binaries, partial(_require_runtime, container.runtime, environ), _NATS])
        return
    packages, programs = _FOREIGN.get(topology.runtime, (_PACKAGES[topology.engine], ()))
    there = [partial(_require_program, name, environ) for name in programs]
    require_all([*binaries, *there, partial(find_mpiexec, environ), partial(require_packages, packages)])


def _require_program(name: str, environ: Mapping[str, str]) -> None:
    if shutil.which(name, path=environ.get("PATH")) is None:
        raise MissingError(f"there is no {name} on PATH: install TensorRT-LLM, or take its image (container.image)")


def _require_runtime(name: str, environ: Mapping[str, str]) -> None:
    program = runtime(name).program
    if program and shutil.which(program, path=environ.get("PATH")) is None:
        raise MissingError(f"there is no {program} on PATH: install {name}, or choose another container.runtime")


def _fill(run: RunDir, topology: Topology, plan: Plan, files: Mapping[str, str], given: Given) -> None:
    for folder in (run.scripts, run.logs, run.events, run.control, run.secrets):
        folder.mkdir(mode=0o700)
    write_atomic(run.topology, dump(redacted(topology)))
    write_atomic(run.plan, to_json(plan))
    write_env(run.given_env, given.variables)
    for name, text in files.items():
        write_atomic(run.path / name, text, 0o700 if name.endswith((".sh", ".sbatch")) else 0o600)
    for name, text in given.secrets.items():
        write_atomic(run.secrets / name, text)
    _copy_site(run.site)


def _copy_site(site: Path) -> None:
    """Copy what the programs of a run import, and the bytecode that there is of it, with the times of the originals.

    By these Python knows that bytecode belongs to a source; one of another version passes it over.
    """
    folders = {site}
    site.mkdir(mode=0o700)
    for name, source in _with_bytecode(site_files()).items():
        target = site / name
        if target.parent not in folders:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folders.add(target.parent)
        shutil.copyfile(source, target)
        status = source.stat()
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _with_bytecode(files: Mapping[str, Path]) -> dict[str, Path]:
    """Else every process of a run that starts beside others compiles all that it imports."""
    found = dict(files)
    for name, source in files.items():
        compiled = Path(cache_from_source(source))
        if compiled.is_file():
            found[f"{os.path.dirname(name)}/__pycache__/{compiled.name}"] = compiled
    return found


def _refuse_unspeakable(root: Path) -> None:
    if not str(root).isprintable():
        raise InputError(
            f"the runs folder {str(root)!r} has characters that break scripts: set TRTDIST_RUNS to another"
        )


def _unusable(root: Path, error: OSError) -> TrtdistError:
    if error.errno in _FULL:
        return TrtdistError(f"no space is left for a run under {root}: make room, or set TRTDIST_RUNS to another disk")
    where = error.filename or root
    return InputError(f"cannot make a run under {root} ({where}: {error.strerror}): set TRTDIST_RUNS to another folder")
