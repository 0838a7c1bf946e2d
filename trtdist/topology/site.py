"""The site profile: what a cluster or machine says once for all topologies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from trtdist.topology.diagnostics import InvalidTopologyError
from trtdist.topology.faults import report_faults
from trtdist.topology.files import read_text
from trtdist.topology.model import SiteProfile
from trtdist.topology.names import canonical
from trtdist.topology.nodes import Entry, Section, read
from trtdist.topology.problems import Problems
from trtdist.topology.values import section

__all__ = ["load_site", "read_site", "site_path", "with_defaults"]

SYSTEM_PROFILE = Path("/etc/trtdist/site.yaml")
_SITE_ORDER = 1
_NETWORK_CHOICE = ("interface", "subnet")


def site_path(environ: Mapping[str, str], system: Path = SYSTEM_PROFILE) -> Path | None:
    """The profile that applies: `$TRTDIST_SITE` (empty for none), else the user's, else the machine's, else None."""
    given = environ.get("TRTDIST_SITE")
    if given is not None:
        return Path(given) if given else None
    home = environ.get("HOME")
    config = environ.get("XDG_CONFIG_HOME") or (os.path.join(home, ".config") if home else "")
    places = [Path(config, "trtdist", "site.yaml")] if config else []
    return next((place for place in [*places, system] if os.path.lexists(place)), None)


def load_site(environ: Mapping[str, str]) -> SiteProfile:
    """The site profile, empty when there is none, with absolute paths. InvalidTopologyError has every problem."""
    problems = Problems()
    profile = SiteProfile()
    path = site_path(environ)
    if path is not None:
        profile, _ = read_site(path, problems)
        folder = os.path.dirname(os.path.abspath(path))
        given = {name: getattr(profile, name) for name in ("runs", "images")}
        profile = profile.model_copy(
            update={
                name: os.path.normpath(os.path.join(folder, os.path.expanduser(text)))
                for name, text in given.items()
                if text is not None
            }
        )
    if problems.errors:
        raise InvalidTopologyError(problems.found)
    return profile


def read_site(path: Path, problems: Problems) -> tuple[SiteProfile, Section | None]:
    """A profile and its tree; an empty one and None when it has errors or says nothing."""
    errors = problems.errors
    text, source = read_text(path, _SITE_ORDER, problems)
    root = read(text, source, problems)
    if root is None:
        return SiteProfile(), None
    root = canonical(root, SiteProfile, problems)
    if not isinstance(root, Section):
        problems.fatal("TRT005", "is no mapping of keys and values", root.origin)
    try:
        profile = SiteProfile.model_validate(section(root, SiteProfile, problems))
    except ValidationError as error:
        report_faults(error, root, problems)
        return SiteProfile(), None
    return (profile, root) if problems.errors == errors else (SiteProfile(), None)


def with_defaults(root: Section, site: Section) -> Section:
    """A topology's tree with what it does not say taken from the site's."""
    slurm, network, container = (_section(site, name) for name in ("slurm", "network", "container"))
    said = _section(root, "network")
    if any(_says(said, key) for key in _NETWORK_CHOICE):
        for key in _NETWORK_CHOICE:
            network = network.without(key)
    if not _says(_section(root, "container"), "image"):
        container = container.without("runtime")
    for name, defaults in (("slurm", slurm), ("network", network), ("container", container)):
        root = _filled(root, name, defaults)
    return root


def _section(node: Section, key: str) -> Section:
    entry = node.get(key)
    return entry.value if entry is not None and isinstance(entry.value, Section) else Section((), node.origin)


def _filled(root: Section, name: str, defaults: Section) -> Section:
    entry = root.get(name)
    if not defaults.entries or (_says(root, name) and entry is not None and not isinstance(entry.value, Section)):
        return root
    filled = _section(root, name)
    for default in defaults.entries:
        if not _says(filled, default.key):
            filled = filled.replaced(default)
    origin = entry.origin if entry is not None else defaults.origin
    return root.replaced(Entry(name, name, origin, Section(filled.entries, origin)))


def _says(section: Section, key: str) -> bool:
    """Whether there is something behind a key; `key:` with nothing behind it leaves the choice to the site."""
    entry = section.get(key)
    return entry is not None and getattr(entry.value, "value", "") is not None
