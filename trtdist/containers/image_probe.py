"""What a Python finds around it, as JSON: this file is run inside an image, by whatever Python that has.

Prints `{"python": ..., "mpi4py": ..., ...}`; what is not there is "", and `errors` says why something does not load.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
from typing import Any

__all__ = ["found", "pmix_version"]

PACKAGES = ("mpi4py", "numpy", "tensorrt_llm")


def found() -> dict[str, Any]:
    """All that is looked for."""
    errors: dict[str, str] = {}
    facts: dict[str, Any] = {name: _version(name) for name in PACKAGES}
    facts["python"] = platform.python_version()
    facts["architecture"] = platform.machine()
    facts["mpi"] = _mpi(errors) if facts["mpi4py"] else ""
    facts["pmix"] = pmix_version()
    facts["environment"] = sorted(os.environ)
    facts["errors"] = errors
    return facts


def _version(package: str) -> str:
    """Without importing it: TensorRT-LLM takes a minute and wants a GPU."""
    try:
        from importlib import metadata
    except ImportError:  # Python 3.7
        return ""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _mpi(errors: dict[str, str]) -> str:
    """The MPI library that mpi4py loads, which is not started."""
    import mpi4py

    mpi4py.rc.initialize = False
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError, OSError) as error:
        errors["mpi4py"] = str(error)
        return ""
    return str(MPI.Get_library_version()).split(",")[0].rstrip("\0").strip()


def pmix_version() -> str:
    """The PMIx library of the image; one that is built into the MPI library does not show."""
    for name in ("libpmix.so.2", "libpmix.so"):
        try:
            version = ctypes.CDLL(name).PMIx_Get_version
        except (OSError, AttributeError):
            continue
        version.restype = ctypes.c_char_p
        return str((version() or b"").decode("utf-8", "replace")).partition("(")[0].strip(" ,")
    return ""


if __name__ == "__main__":
    json.dump(found(), sys.stdout)
