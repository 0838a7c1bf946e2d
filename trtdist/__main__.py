"""The `trtdist` command, also as `python -m trtdist`. Nothing is imported before Ctrl-C is quiet."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is signal.default_int_handler:
        # While modules are loaded nothing is started yet, so there is nothing to tidy up.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    from trtdist.cli.main import main as run

    signal.signal(signal.SIGINT, on_interrupt)
    run()


if __name__ == "__main__":
    main()
