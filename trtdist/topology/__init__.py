"""What the user wrote: models, YAML with positions, diagnostics. Names are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trtdist.topology.diagnostics import Diagnostic, InvalidTopologyError
    from trtdist.topology.loading import Checked, check, check_text, dump, load, load_site
    from trtdist.topology.model import ServerSection, SiteProfile, Topology
    from trtdist.topology.redaction import names_secret, redacted

__all__ = [
    "Checked",
    "Diagnostic",
    "InvalidTopologyError",
    "ServerSection",
    "SiteProfile",
    "Topology",
    "check",
    "check_text",
    "dump",
    "load",
    "load_site",
    "names_secret",
    "redacted",
]

_HOMES = {
    "Checked": "loading",
    "Diagnostic": "diagnostics",
    "InvalidTopologyError": "diagnostics",
    "ServerSection": "model",
    "SiteProfile": "model",
    "Topology": "model",
    "check": "loading",
    "check_text": "loading",
    "dump": "loading",
    "load": "loading",
    "load_site": "loading",
    "names_secret": "redaction",
    "redacted": "redaction",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
