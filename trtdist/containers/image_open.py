"""How an image is opened to look into it, with the environment that it has of its own. Pure.

For steps of a run the runtimes themselves say what is to be done: these keep the image's variables out, which are just
what is looked for here. Standard library, Python 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtdist.containers.image_formats import Image

__all__ = ["FIND_PYTHON", "PASSED", "REFUSALS", "openers", "opening", "overriding", "set_by_image"]

_OPENERS = {
    "squashfs": ("enroot", "apptainer", "singularity", "ch-run"),
    "sif": ("apptainer", "singularity"),
    "directory": ("ch-run", "apptainer", "singularity", "podman"),
    "archive": (),
}
_PROGRAMS = {"charliecloud": "ch-run", "pyxis": "enroot"}

_NO_PYTHON, _OLD_PYTHON = 97, 98
# The probe itself would be a syntax error to an old Python.
FIND_PYTHON = f"""\
for python in python3 python; do
    command -v "$python" >/dev/null || continue
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || exit {_OLD_PYTHON}
    exec "$python" "$@"
done
exit {_NO_PYTHON}
"""
"""Shell that runs whichever Python an image has; how it ends when there is none is in REFUSALS."""

REFUSALS = {
    _NO_PYTHON: "it has no Python: install python3 in it, or take one of TensorRT-LLM's",
    _OLD_PYTHON: "its Python is older than 3.9, or does not start: take a newer image",
}

PASSED = ("HOME", "LANG", "PATH", "TMPDIR", "USER", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")
"""What the programs that open images need of the caller's environment; their own variables are theirs too."""

_OF_RUNTIMES = (
    *("APPTAINER", "CH_", "ENROOT_", "PROMPT_COMMAND", "PS1", "SINGULARITY", "container", "HOSTNAME", "TERM"),
    *("LC_CTYPE", "OLDPWD", "PWD", "SHLVL", "_"),
)
# What a run sets for its ranks, and what bends an engine when an image sets it.
_OURS = (
    *("TRTDIST_", "NATS_", "ETCD_", "OMPI_", "PMIX_", "PMI_", "SLURM_", "UCX_", "NCCL_", "CUDA_VISIBLE_DEVICES"),
    *("MASTER_", "WORLD_SIZE", "RANK", "LOCAL_RANK", "OMP_NUM_THREADS", "PYTHONPATH", "PYTHONHOME", "LD_PRELOAD"),
    *("LD_LIBRARY_PATH", "HF_", "HOME", "TMPDIR", "TRTLLM_", "TLLM_"),
)


def openers(format_: str, runtime: str | None, preferred: str | None) -> tuple[str, ...]:
    """The programs that open an image of a format: that of the runtime alone if one is named, else all, that of the
    preferred runtime first."""
    possible = _OPENERS[format_]
    if runtime is not None:
        return tuple(program for program in possible if program == _PROGRAMS.get(runtime, runtime))
    first = _PROGRAMS.get(preferred or "", preferred)
    return tuple(sorted(possible, key=lambda program: program != first))


def opening(program: str, image: Image, environment_file: Path, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` in an image; `environment_file` is where Charliecloud keeps its variables."""
    path = str(image.path)
    if program == "ch-run":
        variables = ["--set-env"] if environment_file.exists() else []
        return ["ch-run", *variables, path, "--", *argv]
    if program == "enroot":
        return ["enroot", "start", path, *argv]
    if program == "podman":
        return [
            "podman",
            "run",
            "--rm",
            "--network=host",
            f"--entrypoint={argv[0]}",
            "--rootfs",
            f"{path}:O",
            *argv[1:],
        ]
    return [program, "exec", "--cleanenv", "--no-home", path, *argv]


def set_by_image(inside: Sequence[str], outside: Mapping[str, str], of_files: Sequence[str]) -> list[str]:
    """The names that an image sets, from those seen inside, what was given outside, and what its files say."""
    seen = [name for name in inside if name not in outside and not name.startswith(_OF_RUNTIMES)]
    return sorted({*seen, *of_files})


def overriding(names: Sequence[str]) -> list[str]:
    """Those of the names that a run sets as well, or that bend an engine."""
    return [name for name in names if name.startswith(_OURS)]
