"""What `doctor` finds out about the machine it runs on, and what every `up` and `submit` looks at before it starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trtdist.cli.image_places import images_folder
from trtdist.cli.progress import say
from trtdist.containers.base import Mount, is_path
from trtdist.errors import InputError, TrtdistError
from trtdist.images import all_images, problems_of, read_record
from trtdist.observe.check_here import HereFacts, ImageFacts, check_here
from trtdist.observe.findings import Finding, ordered
from trtdist.rundir import runs_root
from trtdist.topology.model import ContainerSection, Topology

__all__ = ["driver_by", "here_facts", "image_facts", "refuse_unfit", "with_architecture"]

# ch-run takes a folder or a file; enroot, pyxis and apptainer know names of their own.
_KNOWS_NO_NAMES = ("charliecloud",)


def refuse_unfit(topology: Topology, *, local: bool) -> None:
    """TrtdistError when this machine alone tells that the deployment cannot run; it asks no other program.

    The exit code is that of the worst finding. What may keep it from running is said.
    """
    found = ordered(check_here(here_facts(topology), local))
    errors = [each for each in found if each.level == "error"]
    if errors:
        raise _Unfit(errors)
    for each in found:
        if each.level == "warning":
            say(f"trtdist: {each.what}; {each.remedy}")


class _Unfit(TrtdistError):
    """What was found, in one sentence."""

    def __init__(self, findings: list[Finding]) -> None:
        told = "; ".join(f"{each.what} ({each.remedy})" for each in findings)
        super().__init__(f"{told}; --no-check starts it all the same")
        self.exit_code = findings[0].exit_code


def here_facts(topology: Topology | None) -> HereFacts:
    """The facts, in a few milliseconds, the variables aside. Without a topology, what every run needs."""
    root = os.path.abspath(runs_root(os.environ))
    section = topology.container if topology is not None else ContainerSection()
    contained = section.runtime != "none"
    sources = [Mount.parse(text).source for text in section.mounts] if contained else []
    missing = tuple(path for path in sources if not os.path.exists(path))
    return HereFacts(
        image=_image(topology, missing) if topology is not None and contained else None,
        unknown_image=_unknown_image(section),
        runs=root,
        runs_problem=_runs_problem(root),
        machine=_machine() if contained else "",
        runtime=section.runtime,
        mounts_missing=missing,
    )


def _unknown_image(section: ContainerSection) -> str:
    """What is wrong with an image that is none of a path and was not imported, where the runtime looks no names up."""
    image = section.image
    if section.runtime not in _KNOWS_NO_NAMES or image is None or "/" in image:
        return ""
    folder = images_folder(None)
    there = ", ".join(all_images(folder)) or "none"
    remedy = "import it with `trtdist image import`, or write its path in container.image"
    return f"there is no image {image} in {folder}, which has {there}: {remedy}"


def _machine() -> str:
    # Most runs have no image, and start sooner without what knows of images.
    from trtdist.containers.image_formats import here

    return here()


def _image(topology: Topology, missing: Sequence[str]) -> ImageFacts | None:
    """The image, with what it must have for GPUs. A mount that is not here may bring that where it is."""
    found, mounts = image_facts(topology.container.image or ""), driver_by(topology)
    if found is None or found.problem or mounts is None or missing:
        return found
    from trtdist.supervisor.gpu_driver import driver_of

    return replace(found, **driver_of(found.path, mounts)._asdict())


def driver_by(topology: Topology) -> list[tuple[str, str]] | None:
    """The mounts, sources with their targets, that could bring NVIDIA's driver into an image that must have it; None
    where the container runtime brings it, or nobody needs it."""
    from trtdist.rendering.containers import uses_gpus

    if topology.container.runtime != "charliecloud" or not uses_gpus(topology):
        return None
    mounts = map(Mount.parse, topology.container.mounts)
    return [(mount.source, mount.target) for mount in mounts]


def image_facts(path: str) -> ImageFacts | None:
    """What its first bytes tell of an image, and the record of an imported one; None for what is no path, but a
    reference that the runtime looks up."""
    if not is_path(path):
        return None
    from trtdist.containers.image_formats import recognised

    place = Path(path)
    folder_there = os.path.isdir(place.parent)
    record = read_record(place.parent)
    problems = problems_of(place.parent) if record is not None else []
    if problems:
        remedy = f"remove {place.parent} and import it again"
        return ImageFacts(path, f"the image {path} is not whole ({'; '.join(problems)}): {remedy}", folder_there)
    try:
        found = recognised(place)
    except InputError as error:
        return ImageFacts(path, str(error), folder_there)
    architecture = found.architecture or (record.architecture if record is not None else "")
    return ImageFacts(path, "", folder_there, found.format, found.size, architecture)


def with_architecture(image: ImageFacts) -> ImageFacts:
    """The same with the architecture of the programs in it, for which an image is opened that its header does not
    tell it of; as it was when nothing here can open it."""
    if image.problem or image.architecture:
        return image
    from trtdist.cli.image_fill import peek
    from trtdist.containers.image_formats import recognised

    with tempfile.TemporaryDirectory() as scratch:
        try:
            architecture, _ = peek(recognised(Path(image.path)), Path(scratch, "peek"))
        except InputError as error:
            return replace(image, problem=str(error))
        except TrtdistError:
            return image
    return replace(image, architecture=architecture)


def _runs_problem(root: str) -> str:
    """Why nothing can be made in the runs folder, which is made when the first run is."""
    folder = Path(root)
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder):
        return f"{folder} is no folder"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written to"
