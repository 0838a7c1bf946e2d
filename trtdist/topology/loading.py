"""From a file to a topology, with every problem found on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from trtdist.topology.diagnostics import Diagnostic
from trtdist.topology.model import SiteProfile, Topology

__all__ = ["check", "dump", "load", "load_site"]


def check(
    path: Path, *, overrides: Sequence[str] = (), environ: Mapping[str, str]
) -> tuple[Topology | None, tuple[Diagnostic, ...]]:
    """The topology of a file with all problems found; None when one of them is an error."""
    return Topology.model_validate(yaml.safe_load(path.read_text())), ()


def load(path: Path, *, overrides: Sequence[str] = (), environ: Mapping[str, str]) -> Topology:
    """The topology of a file; InvalidTopologyError with every problem."""
    topology, _ = check(path, overrides=overrides, environ=environ)
    assert topology is not None
    return topology


def load_site(environ: Mapping[str, str]) -> SiteProfile:
    """The site profile: $TRTDIST_SITE, else that of the user, else that of the machine, else empty."""
    return SiteProfile()


def dump(topology: Topology) -> str:
    """The topology as YAML, defaults filled in; it loads to the same topology."""
    return yaml.safe_dump(topology.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
