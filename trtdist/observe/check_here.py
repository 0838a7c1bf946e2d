"""What is wrong, as far as the machine tells where a run is started. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trtdist.containers.image_open import openers
from trtdist.errors import MissingError
from trtdist.observe.findings import Finding, split
from trtdist.slurm import mpi

__all__ = ["HereFacts", "ImageFacts", "check_here", "check_mpi_types"]

_ELSEWHERE = "nodes may have it: `trtdist doctor FILE --nodes` looks there"
_NAMES = {"directory": "a folder", "archive": "an archive", "sif": "SIF"}


@dataclass(frozen=True)
class ImageFacts:
    """An image as it is seen from one place: `problem` is "" when it can be read and is whole, `doubt` what else could
    not be found out, with what to do. `reachable` says whether at least the folder that it should be in is there.
    `size` in bytes is 0 for a folder; what is not known of format and architecture is ""."""

    path: str
    problem: str = ""
    reachable: bool = True
    format: str = ""
    size: int = 0
    architecture: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class HereFacts:
    """What was found where the command runs.

    `image` is None without one, or when it is none of a path; `unknown_image` says why another cannot be had, with what
    to do, "" if it may. `runs_problem` says why no run can be made in `runs`, ""
    if one can. `machine` is the architecture, `runtime` the container's. `leaking` names variables that bend engines.
    `mounts_missing` are sources that are not here.
    """

    image: ImageFacts | None
    runs: str
    runs_problem: str
    machine: str
    runtime: str
    mounts_missing: tuple[str, ...] = ()
    leaking: tuple[str, ...] = ()
    unknown_image: str = ""


def check_here(facts: HereFacts, local: bool) -> Iterator[Finding]:
    """What one machine alone tells; with `local` the run stays on it, so that what is not here is nowhere."""
    if facts.image is not None:
        yield _image(facts.image, facts.runtime, facts.machine if local else "")
    if facts.unknown_image:
        yield Finding("error", "image", "", *split(facts.unknown_image))
    for path in facts.mounts_missing:
        what, remedy = f"there is no {path} to mount", "make it, or take it out of container.mounts"
        if local:
            yield Finding("error", "mount", "", what, remedy)
        else:
            yield Finding("warning", "mount", "", f"{what} here", _ELSEWHERE)
    if facts.runs_problem:
        yield Finding(
            "error",
            "runs",
            "",
            f"no run can be made in {facts.runs} ({facts.runs_problem})",
            "set TRTDIST_RUNS to a folder of yours that all nodes see",
        )
    else:
        yield Finding("ok", "runs", "", f"runs are kept in {facts.runs}")
    if facts.leaking:
        names = ", ".join(facts.leaking)
        yield Finding(
            "warning",
            "environment",
            "",
            f"{names} in the environment may bend MPI and the engine",
            f"unset {' '.join(facts.leaking)}; what is meant for ranks belongs into container.env",
        )


def _image(image: ImageFacts, runtime: str, machine: str) -> Finding:
    """`machine` is the architecture of the node if this is it, else ""."""
    if machine and image.architecture not in ("", machine):
        what = f"the image {image.path} is made for {image.architecture}, and this machine is {machine}"
        return Finding(
            "error", "image.architecture", "", what, f"import it with `trtdist image import --arch {machine}`"
        )
    if image.format and not openers(image.format, runtime, None):
        what = f"{runtime} starts nothing from {image.path}, which is {_NAMES.get(image.format, image.format)}"
        return Finding("error", "image", "", what, f"import it with `trtdist image import --runtime {runtime}`")
    if image.doubt:
        return Finding("warning", "image", "", *split(image.doubt))
    if not image.problem:
        told = [image.format, image.architecture]
        return Finding("ok", "image", "", f"{image.path} is {', '.join(filter(None, told))}")
    what, remedy = split(image.problem)
    if machine or image.reachable:
        return Finding("error", "image", "", what, remedy)
    folder = os.path.dirname(image.path)
    return Finding("warning", "image", "", f"{folder} is not on this machine", _ELSEWHERE)


def check_mpi_types(types: Sequence[str], pyxis: bool, runtime: str) -> Iterator[Finding]:
    """What `srun --mpi=list` and `srun --help` offer, against what the ranks and their containers need."""
    try:
        chosen = mpi.choose(types)
    except MissingError as error:
        yield Finding("error", "mpi.types", "", str(error), "ask the administrators for Slurm's PMIx plugin")
    else:
        yield Finding("ok", "mpi.types", "", f"ranks start with --mpi={chosen}, of {', '.join(types)}")
    if runtime == "pyxis" and not pyxis:
        yield Finding(
            "error",
            "runtime",
            "",
            "srun has no --container-image, so pyxis is not installed where srun runs",
            "ask the administrators for it, or set container.runtime to enroot, apptainer or charliecloud",
        )
