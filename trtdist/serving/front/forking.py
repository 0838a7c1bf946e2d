"""Several processes that do the same, ended together."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from trtdist.errors import RunFailedError
from trtdist.serving.program import run_program
from trtdist.supervisor.lineage import Bound

__all__ = ["fork_each"]


def fork_each(count: int, work: Callable[[int], None]) -> None:
    """Do `work(number)` in `count` processes that die with this one, in this one itself when it is one.

    Returns when all have ended after a signal; RunFailedError when one ended before.
    """
    if count == 1:
        work(0)
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, (*signals, signal.SIGCHLD))
    parent = os.getpid()
    children = [_fork(number, work, parent) for number in range(count)]
    # The first of: somebody wants the end, or a child has ended.
    received = signal.sigwait((*signals, signal.SIGCHLD))
    for child in children:
        os.kill(child, signal.SIGTERM)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    bad = [code for code in codes if code]
    if received == signal.SIGCHLD or bad:
        raise RunFailedError(f"a process of the front end ended with {bad[0] if bad else 0}: see above")


def _fork(number: int, work: Callable[[int], None], parent: int) -> int:
    child = os.fork()
    if child:
        return child
    Bound(parent, signal.SIGKILL)()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os._exit(run_program(["front"], lambda _: work(number)))
