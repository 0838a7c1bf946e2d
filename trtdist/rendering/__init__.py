"""From a plan to the files that run."""

from __future__ import annotations

from trtdist.rendering.local import render_local
from trtdist.rendering.shell import RenderError, quote
from trtdist.rendering.site import site_files
from trtdist.rendering.slurm import job_options, limit_seconds, render_slurm

__all__ = ["RenderError", "job_options", "limit_seconds", "quote", "render_local", "render_slurm", "site_files"]
