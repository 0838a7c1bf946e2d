"""The outside of a program of the serving side: one argument, two signals, and errors told in one sentence."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from trtdist.errors import InputError, TrtdistError

__all__ = ["asked", "run_program", "run_until_stopped"]


def run_program(arguments: Sequence[str], work: Callable[[Path], None]) -> int:
    """Do `work` in the run directory that the one argument names; returns the exit code.

    SIGRTMIN + 9 has the stacks of all threads written to standard error, which `trtdist.supervisor.look` asks for.
    """
    faulthandler.register(signal.SIGRTMIN + 9)
    try:
        if len(arguments) != 1:
            raise InputError("one argument is needed: the run directory")
        work(Path(arguments[0]).resolve())
    except TrtdistError as error:
        print(f"trtdist: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except OSError as error:
        print(f"trtdist: {error.filename or arguments[0]}: {error.strerror or error}", file=sys.stderr, flush=True)
        return 1
    return 0


def run_until_stopped(
    work: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run,
) -> None:
    """Run `work` in an event loop of its own, as `run` makes it; TERM and INT set its event."""
    run(_with_signals(work))


async def asked(stop: asyncio.Event) -> str:
    """Returns, with no reason to complain about, when the event is set."""
    await stop.wait()
    return ""


async def _with_signals(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await work(stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
