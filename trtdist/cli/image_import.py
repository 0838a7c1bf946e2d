"""`trtdist image import`: have an image where jobs read it, in the format of the container runtime."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import click

from trtdist.cli.image_fill import Import
from trtdist.cli.image_places import images_folder, site_runtime
from trtdist.cli.progress import say
from trtdist.containers.image_formats import NATIVE, architecture_name, here
from trtdist.containers.image_sources import default_name, docker_name, parse_registry, valid_name
from trtdist.errors import InputError
from trtdist.images import FILES, image_path, problems_of, read_record
from trtdist.once import Kind, placed

__all__ = ["command"]

_IMAGE = Kind("image", "import", "--images", problems_of)


@click.command("import")
@click.argument("source")
@click.option("--name", help="What topologies call it.  [default: from SOURCE]")
@click.option("--runtime", type=click.Choice(list(NATIVE)), help="For which container runtime.  [default: the site's]")
@click.option("--format", "format_", type=click.Choice(list(FILES)), help="As what.  [default: what the runtime wants]")
@click.option("--arch", metavar="NAME", help="The architecture of the nodes.  [default: this machine's]")
@click.option(
    "--images",
    metavar="DIR",
    help="Where images are kept.  [default: $TRTDIST_IMAGES, the site's, else beside the runs]",
)
def command(
    source: str, name: str | None, runtime: str | None, format_: str | None, arch: str | None, images: str | None
) -> None:
    """Have an image where jobs read it, once and whole, and print its path.

    SOURCE is docker://[REGISTRY/]IMAGE[:TAG], an archive of `docker save` or OCI, a squashfs or SIF file, or the folder
    of a root file system. However often and by however many it is asked for, it is imported once; nobody sees half of
    it, and layers that an interrupted import has fetched stay for the next.
    """
    wanted = format_ or _format(runtime)
    chosen = valid_name(name or default_name(source))
    source = source if parse_registry(source) else os.path.abspath(source)
    work = Import(source, chosen, wanted, architecture_name(arch or here()), say)
    folder = images_folder(images)
    _refuse_another(work, folder)
    placed(_IMAGE, work.fill, folder, chosen, say)
    _refuse_another(work, folder)
    path = image_path(folder, chosen)
    if wanted == "archive":
        say(f"`docker load --input {path}` on each node, and `image: {docker_name(chosen)}` in the topology, use it")
    click.echo(path)


def _format(runtime: str | None) -> str:
    chosen = runtime or site_runtime()
    if chosen not in NATIVE:
        raise InputError(
            "the format of the image depends on the container runtime, which the site profile does not name: "
            f"say --runtime ({', '.join(NATIVE)}) or --format"
        )
    return NATIVE[chosen]


def _refuse_another(work: Import, folder: Path) -> None:
    """InputError when an image of that name is there that is not what is asked for."""
    record = read_record(folder / work.name)
    if record is None:
        return
    found = (record.source, record.format, record.architecture or work.architecture)
    differs = [
        f"it is {what} and {wanted} is asked for"
        for what, wanted in zip(found, (work.source, work.format, work.architecture))
        if what != wanted
    ]
    if not differs and _changed(work.source, record.imported):
        differs = [f"{work.source} has changed since"]
    if differs:
        place = folder / work.name
        raise InputError(
            f"an image {work.name} was imported already, and {differs[0]}: choose another --name, or remove {place}"
        )


def _changed(source: str, imported: str) -> bool:
    """Whether a file is newer than its import; of a registry's tag nobody is asked."""
    if parse_registry(source):
        return False
    try:
        return os.stat(source).st_mtime > datetime.fromisoformat(imported.replace("Z", "+00:00")).timestamp() + 1
    except (OSError, ValueError):
        return False
