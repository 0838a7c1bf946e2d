"""From a plan to the files that run."""

from __future__ import annotations

from trtdist.rendering.local import render_local
from trtdist.rendering.shell import RenderError, quote
from trtdist.rendering.site import site_files

__all__ = ["RenderError", "quote", "render_local", "site_files"]
