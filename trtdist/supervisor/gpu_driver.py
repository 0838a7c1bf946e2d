"""Whether an image that Charliecloud starts has NVIDIA's driver, which Charliecloud does not bring as others do.

`ch-fromhost --nvidia` copies it into a folder once; a squashfs file stays as it is. Standard library, Python 3.9.
"""

from __future__ import annotations

import glob
import os
import subprocess
from collections.abc import Sequence

__all__ = ["driver_problem"]

# Where ch-fromhost and NVIDIA's images have the library of the driver.
_LIBRARIES = tuple(
    f"{folder}/libcuda.so*"
    for folder in (
        "lib*",
        "lib/*",
        "usr/lib*",
        "usr/lib/*",
        "usr/local/lib*",
        "usr/local/cuda*/compat",
        "usr/local/cuda*/compat/*",
    )
)
_SECONDS = 20.0


def driver_problem(image: str, mounts: Sequence[tuple[str, str]]) -> str:
    """What is to be said against an image that is a path, with its remedy; "" when the driver is in it, or comes by one
    of the mounts, which are sources with their targets."""
    if any("libcuda" in target or _holds(source, ("libcuda.so*", "lib*/libcuda.so*")) for source, target in mounts):
        return ""
    if os.path.isdir(image):
        if _holds(image, _LIBRARIES):
            return ""
        return f"the image {image} has no libcuda, and charliecloud brings none: `ch-fromhost --nvidia {image}` does"
    try:
        listed = _listed(image)
    except FileNotFoundError:
        listed, why = "", "as far as can be told without unsquashfs"
    except subprocess.TimeoutExpired:
        listed, why = "", f"as far as unsquashfs could tell within {_SECONDS:g} s"
    else:
        why = "and charliecloud brings none into a squashfs file"
    if "/libcuda.so" in listed:
        return ""
    remedy = f"make a folder of it (`trtdist image import {image} --runtime charliecloud`) for `ch-fromhost --nvidia`"
    return f"the image {image} has no libcuda, {why}: {remedy}"


def _listed(image: str) -> str:
    """The libraries of the driver in a squashfs file, one a line."""
    words = ["unsquashfs", "-lc", image, *_LIBRARIES]
    return subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
    ).stdout


def _holds(folder: str, patterns: Sequence[str]) -> bool:
    return any(glob.glob(f"{glob.escape(folder)}/{pattern}") for pattern in patterns)
