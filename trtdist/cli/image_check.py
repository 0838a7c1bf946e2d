"""`trtdist image check`: open an image and tell what is in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from trtdist.cli.image_fill import peek
from trtdist.cli.image_list import size
from trtdist.cli.image_places import images_folder, site_runtime
from trtdist.cli.image_tools import first_of
from trtdist.containers import image_probe
from trtdist.containers.image_formats import NATIVE, Image, architecture_name, here, recognised
from trtdist.containers.image_open import FIND_PYTHON, PASSED, REFUSALS, openers, opening, overriding, set_by_image
from trtdist.errors import InputError
from trtdist.images import image_path, problems_of

__all__ = ["Found", "command"]

_PATH_INSIDE = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECONDS = 120
_VERSIONS = ("python", "mpi4py", "mpi", "pmix", "numpy", "tensorrt_llm")


@dataclass(frozen=True)
class Found:
    """What is known of an image; versions are "" for what it has not, or was not asked about (`opened_with` is "")."""

    path: str
    format: str
    size: int
    architecture: str
    opened_with: str = ""
    python: str = ""
    mpi4py: str = ""
    mpi: str = ""
    pmix: str = ""
    numpy: str = ""
    tensorrt_llm: str = ""
    environment: tuple[str, ...] = ()
    over_ours: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@click.command("check")
@click.argument("image")
@click.option("--runtime", type=click.Choice(list(NATIVE)), help="Open it with this runtime.  [default: the site's]")
@click.option("--arch", metavar="NAME", help="The architecture of the nodes.  [default: this machine's]")
@click.option("--no-open", is_flag=True, help="Look at the file alone: its headers, its size, its architecture.")
@click.option("--images", metavar="DIR", help="Where images are kept.  [default: as for `image import`]")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(
    image: str, runtime: str | None, arch: str | None, no_open: bool, images: str | None, as_json: bool
) -> None:
    """Open an image and tell what is in it: Python, MPI, PMIx, TensorRT-LLM, and the variables that it sets.

    IMAGE is the name of an imported one, or a path. It is opened with the runtime that is given, else the site's, else
    one that is installed here; an archive, and an image for another architecture, is not opened. The exit code is 2
    when the image cannot be used.
    """
    path = _path(image, images_folder(images))
    found, file = _looked_at(path, architecture_name(arch or here()))
    candidates = openers(file.format, runtime, site_runtime())
    if runtime is not None and not candidates:
        raise InputError(f"{runtime} opens no {file.format}, which {path} is: import it with --runtime {runtime}")
    if not no_open and not found.problems and candidates and found.architecture in ("", here()):
        program = first_of(candidates, f"opens {file.format} images (--no-open looks at the file alone)")
        found = _opened(found, file, program)
    click.echo(json.dumps(asdict(found), indent=2) if as_json else _table(found))
    if found.problems:
        raise InputError(f"the image {path} cannot be used: {'; '.join(found.problems)}")


def _path(image: str, folder: Path) -> Path:
    """The path of an image by name or path. InputError when an imported one is not whole."""
    named = image_path(folder, image)
    if named is None:
        return Path(os.path.abspath(image))
    problems = problems_of(named.parent)
    if problems:
        what = "; ".join(problems)
        raise InputError(f"the image {image} is not whole ({what}): remove {named.parent} and import it again")
    return named


def _looked_at(path: Path, wanted: str) -> tuple[Found, Image]:
    """What the file alone tells."""
    file = recognised(path)
    with tempfile.TemporaryDirectory() as scratch:
        architecture, variables = peek(file, Path(scratch, "peek"))
    problems = []
    if architecture not in ("", wanted):
        problems = [f"it is made for {architecture} and the nodes are {wanted}, unless --arch says otherwise"]
    names = tuple(sorted(variables))
    return Found(
        path=str(path),
        format=file.format,
        size=file.size,
        architecture=architecture,
        environment=names,
        over_ours=tuple(overriding(names)),
        problems=tuple(problems),
    ), file


def _opened(found: Found, image: Image, program: str) -> Found:
    """What an interpreter inside tells."""
    passed = ("ENROOT_", "APPTAINER_", "SINGULARITY_", "CONTAINERS_")
    outside = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith(passed)}
    outside.setdefault("USER", str(os.getuid()))  # ch-run does not start without
    source = Path(image_probe.__file__).read_text(encoding="utf-8")
    argv = ["sh", "-c", FIND_PYTHON, "sh", "-c", source]
    listed = image.path / "ch" / "environment"
    words = opening(program, image, listed, argv)
    words[0] = shutil.which(program) or program
    if program == "ch-run":
        # It takes the caller's PATH inside, where a Python of the caller's may be seen in a folder that it mounts.
        outside["PATH"] = _PATH_INSIDE
    facts, problem = _answer(words, outside)
    if problem:
        return replace(found, opened_with=program, problems=(problem,))
    names = set_by_image(facts["environment"], outside, found.environment)
    versions: dict[str, Any] = {name: str(facts[name]) for name in _VERSIONS}
    return replace(
        found,
        opened_with=program,
        architecture=found.architecture or str(facts["architecture"]),
        environment=tuple(names),
        over_ours=tuple(overriding(names)),
        problems=tuple(_lacking(versions, facts["errors"])),
        **versions,
    )


def _answer(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """What the probe says, or what is wrong."""
    try:
        done = subprocess.run(
            argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {}, f"{os.path.basename(argv[0])} does not open it within {_SECONDS} s"
    if done.returncode in REFUSALS:
        return {}, REFUSALS[done.returncode]
    # Hooks and entry points of images print banners before it.
    last = done.stdout.strip().rpartition("\n")[2]
    try:
        return json.loads(last), ""
    except ValueError:
        said = (done.stderr or done.stdout).strip().splitlines()
        why = said[-1] if said else f"exit code {done.returncode}"
        return {}, f"{os.path.basename(argv[0])} cannot open it: {why}"


def _lacking(versions: Mapping[str, str], errors: Mapping[str, str]) -> Iterator[str]:
    """What keeps a run from working in it, each with its remedy."""
    if not versions["mpi4py"]:
        yield "it has no mpi4py: add it with what `trtdist image recipe` prints"
    elif not versions["mpi"]:
        why = errors.get("mpi4py", "no reason given")
        yield f"its mpi4py finds no MPI ({why}): install Open MPI in it, as `trtdist image recipe` does"


def _table(found: Found) -> str:
    rows = {
        "image": found.path,
        "format": f"{found.format}, {size(found.size)}" if found.size else found.format,
        "architecture": found.architecture or "unknown",
        "opened with": found.opened_with or "not opened",
        **({name: getattr(found, name) or "none" for name in _VERSIONS} if found.python else {}),
        "sets": ", ".join(found.environment) or "no variables",
        "over ours": ", ".join(found.over_ours) or "none",
    }
    return "\n".join(f"{name:<13} {value}" for name, value in rows.items())
