"""The image that a topology names, when it is one that `trtdist image import` has brought."""

from __future__ import annotations

from collections.abc import Mapping

from trtdist.images import image_path, images_root
from trtdist.topology.model import Topology
from trtdist.topology.site import load_site

__all__ = ["with_imported_image"]


def with_imported_image(topology: Topology, environ: Mapping[str, str]) -> Topology:
    """The topology with the path of an imported image in place of its name; any other image is left as it is.

    Docker starts nothing from a path: it has loaded the image under its name.
    """
    image = topology.container.image
    if image is None or "/" in image or topology.container.runtime == "docker":
        return topology
    found = image_path(images_root(environ, load_site(environ).images), image)
    if found is None:
        return topology
    return topology.model_copy(
        update={"container": topology.container.model_copy(update={"image": str(found)})},
    )
