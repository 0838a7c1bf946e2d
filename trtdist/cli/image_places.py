"""Where images are kept, and which container runtime this site has."""

from __future__ import annotations

import os
from pathlib import Path

from trtdist.images import images_root

__all__ = ["images_folder", "site_runtime"]


def images_folder(given: str | None) -> Path:
    """Where images are kept: in the folder that is given, else as `images_root` and the site profile say."""
    if given is not None or os.environ.get("TRTDIST_IMAGES"):
        return Path(os.path.abspath(given)) if given is not None else images_root(os.environ)
    from trtdist.topology import load_site

    return images_root(os.environ, load_site(os.environ).images)


def site_runtime() -> str | None:
    """The container runtime of the site profile."""
    from trtdist.topology import load_site

    return load_site(os.environ).container.runtime
