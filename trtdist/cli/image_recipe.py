"""`trtdist image recipe`: a Dockerfile that adds mpi4py to a TensorRT-LLM image."""

from __future__ import annotations

import re

import click

from trtdist.errors import InputError

__all__ = ["command", "recipe"]

_BASE = "nvcr.io/nvidia/tensorrt-llm/release:1.0.0"
_RECIPE = """\
FROM {base}

# The workers speak MPI through mpi4py. It is built against the MPI of this image, since a wheel that brings its own
# would not speak the PMIx that srun offers.
RUN python3 -m pip install --no-cache-dir --no-binary mpi4py "mpi4py>=3.1,<5"

# Fails here rather than in a job.
RUN python3 -c "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
"""


@click.command("recipe")
@click.option("--base", metavar="IMAGE", default=_BASE, show_default=True, help="The image to add to.")
def command(base: str) -> None:
    """Print a Dockerfile that adds mpi4py to an image of TensorRT-LLM.

    Nothing else is needed in an image: trtdist brings its own Python along. `image check` tells whether mpi4py is there
    already.
    """
    click.echo(recipe(base), nl=False)


def recipe(base: str) -> str:
    """The text of the Dockerfile. InputError when `base` is no image."""
    plain = base.removeprefix("docker://")
    if not re.fullmatch(r"[\w][\w./:@-]*", plain, re.ASCII):
        raise InputError(f"{base!r} is no image: give one such as {_BASE}")
    return _RECIPE.format(base=plain)
