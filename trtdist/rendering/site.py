"""What a run's `site/` holds: the Python that its programs import, so that nothing is installed where they run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import trtdist
from trtdist.errors import MissingError

__all__ = ["site_files"]

_MODULES = (
    "__init__", "chain", "claim", "errors", "events", "images", "newrun", "once", "plan", "process", "rundir",
    "sockets",
)  # fmt: skip
_ROOMS = ("containers", "engines", "services", "serving", "slurm", "supervisor")


def site_files() -> Mapping[str, Path]:
    """The files of `site/` by their path in it, each with the installed file to copy; Python source alone."""
    package = Path(trtdist.__file__).parent
    files = [package / f"{name}.py" for name in _MODULES]
    files += [path for room in _ROOMS for path in sorted((package / room).rglob("*.py"))]
    found = {f"trtdist/{path.relative_to(package).as_posix()}": path for path in files}
    nats = _nats()
    return {**found, **{f"nats/{path.relative_to(nats).as_posix()}": path for path in sorted(nats.rglob("*.py"))}}


def _nats() -> Path:
    """The folder of nats-py, found without importing it."""
    spec = find_spec("nats")
    if spec is None or spec.origin is None:
        raise MissingError("the package nats-py is missing: pip install nats-py")
    return Path(spec.origin).parent
