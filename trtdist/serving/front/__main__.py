"""`python -m trtdist.serving.front RUN_DIR`: the HTTP front end of a run."""

from __future__ import annotations

import sys

from trtdist.serving.front.program import work
from trtdist.serving.program import run_program

if __name__ == "__main__":
    sys.exit(run_program(sys.argv[1:], work))
