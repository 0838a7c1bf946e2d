"""Whether an image that Charliecloud starts has NVIDIA's driver, which Charliecloud does not bring as others do.

`ch-fromhost --nvidia` copies it into a folder once; a squashfs file stays as it is. Standard library, Python 3.9.
"""

from __future__ import annotations

import glob
import os
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Driver", "driver_of"]

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
# A mount may be of any folder above: /usr/lib64, /usr/lib, /usr.
_MOUNTED = ("libcuda.so*", "*/libcuda.so*", "lib*/*/libcuda.so*")
# `doctor` has all that it looks for on a node within observe.node_facts.LOOK_S.
_SECONDS = 8.0


class Driver(NamedTuple):
    """`problem` is what is to be said against an image, `doubt` what is not known of it, each with what to do; both are
    "" for an image that has the driver or gets it."""

    problem: str = ""
    doubt: str = ""


def driver_of(image: str, mounts: Sequence[tuple[str, str]]) -> Driver:
    """Whether the driver is in an image that is a path, or comes by one of the mounts, which are sources with their
    targets."""
    if any("libcuda" in target or _holds(source, _MOUNTED) for source, target in mounts):
        return Driver()
    if os.path.isdir(image):
        if _holds(image, _LIBRARIES):
            return Driver()
        what = f"the image {image} has no libcuda, and charliecloud brings none"
        return Driver(problem=f"{what}: `ch-fromhost --nvidia {image}` does")
    try:
        listed = _listed(image)
    except _Unlisted as why:
        what = f"it is not known whether {image} has libcuda, which charliecloud does not bring ({why})"
        return Driver(doubt=f"{what}: look with `unsquashfs -l {image}` where that is installed")
    if "/libcuda.so" in listed:
        return Driver()
    what = f"the image {image} has no libcuda, and charliecloud brings none into a squashfs file"
    remedy = f"make a folder of it (`trtdist image import {image} --runtime charliecloud`) for `ch-fromhost --nvidia`"
    return Driver(problem=f"{what}: {remedy}")


class _Unlisted(Exception):
    """Why nothing is known of what a squashfs file has."""


def _listed(image: str) -> str:
    """The libraries of the driver in a squashfs file, one a line; _Unlisted when unsquashfs does not tell."""
    words = ["unsquashfs", "-lc", image, *_LIBRARIES]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _Unlisted(f"unsquashfs did not end within {_SECONDS:g} s") from None
    except OSError as error:
        raise _Unlisted(f"unsquashfs cannot be started: {error.strerror}") from None
    # Releases before 4.4 have no -lc, and some are built without the compression of the image.
    if done.returncode != 0:
        raise _Unlisted(f"unsquashfs ended with exit code {done.returncode}")
    return done.stdout


def _holds(folder: str, patterns: Sequence[str]) -> bool:
    return any(glob.glob(f"{glob.escape(folder)}/{pattern}") for pattern in patterns)
