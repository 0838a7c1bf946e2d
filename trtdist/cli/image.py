"""`trtdist image`: bring container images to where jobs read them, and look at them."""

from __future__ import annotations

import click

from trtdist.cli.lazy import LazyGroup

__all__ = ["OFFERED", "command"]

OFFERED = {
    "import": "Have an image where jobs read it, once and whole.",
    "list": "List the imported images.",
    "check": "Open an image and tell what is in it.",
    "recipe": "Print a Dockerfile that adds mpi4py to an image.",
}


@click.command("image", cls=LazyGroup, offered=OFFERED, modules="trtdist.cli.image_")
def command() -> None:
    """Bring container images to where jobs read them, and look at them."""
