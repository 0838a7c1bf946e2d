"""The folders of runs as `latest` and others see them: one appears whole, and goes whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping

from trtdist.errors import TrtdistError
from trtdist.newrun import point_to
from trtdist.rundir import LATEST, RunDir

__all__ = ["remove"]


def remove(run: RunDir, environ: Mapping[str, str]) -> None:
    """Remove the folder of a run; `latest` leads to the newest that is left, if it led to this one. TrtdistError."""
    # `up` makes runs and starts sooner without what looks at them.
    from trtdist.observe.runs import list_runs

    # Out of sight first, so that half a run is never seen.
    gone = run.path.with_name(f".{run.run_id}-{secrets.token_hex(8)}.part")
    link = run.path.with_name(LATEST)
    try:
        run.path.rename(gone)
        shutil.rmtree(gone)
        if link.is_symlink() and os.readlink(link) == run.run_id:
            left = list_runs(environ)
            if left:
                point_to(left[0])
            else:
                link.unlink()
    except OSError as error:
        raise TrtdistError(f"cannot remove {run.path}: {error.strerror or error}") from error
