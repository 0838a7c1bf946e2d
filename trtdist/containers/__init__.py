"""Container runtimes behind one seam: what a step's command becomes in each. Pure. Standard library, Python 3.9."""

from __future__ import annotations

from collections.abc import Mapping

from trtdist.containers.apptainer import Apptainer
from trtdist.containers.base import Caller, Container, ContainerRuntime, Mount, StepOption
from trtdist.containers.charliecloud import Charliecloud
from trtdist.containers.docker import Docker
from trtdist.containers.enroot import Enroot
from trtdist.containers.none import NoContainer
from trtdist.containers.podman import Podman
from trtdist.containers.pyxis import Pyxis

__all__ = ["RUNTIMES", "Caller", "Container", "ContainerRuntime", "Mount", "StepOption", "runtime"]

_FOUND: Mapping[str, ContainerRuntime] = {
    "none": NoContainer(),
    "pyxis": Pyxis(),
    "enroot": Enroot(),
    "apptainer": Apptainer("apptainer"),
    "singularity": Apptainer("singularity"),
    "charliecloud": Charliecloud(),
    "podman": Podman(),
    "docker": Docker(),
}
RUNTIMES = tuple(_FOUND)


def runtime(name: str) -> ContainerRuntime:
    """The runtime of that name, one of RUNTIMES."""
    return _FOUND[name]
