"""Watching an engine that has loaded, where no future tells of its end.

`LLM._check_health` is what the `/health` of trtllm-serve asks (`tensorrt_llm/serve/openai_server.py`); older releases
do not have it. A server of one rank has spawned its worker with MPI (`MpiPoolSession`), and nothing tells the leader
when that process is killed, so it is looked for.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from trtdist.engines.tensorrt_llm.deaths import Deaths
from trtdist.process import ProcessId
from trtdist.supervisor.lineage import children

__all__ = ["Health"]

_POLL_S = 1.0
# Programs that only an engine's workers are: mpi4py's spawned ones, and those of Python's process pools.
_WORKERS = ("mpi4py.futures", "multiprocessing.spawn")


class Health:
    """Looks after an engine once a second."""

    def __init__(self, llm: Any, deaths: Deaths) -> None:
        self._check = getattr(llm, "_check_health", None)
        self._deaths = deaths
        self._workers = _workers(os.getpid())
        for future in getattr(getattr(llm, "_executor", None), "mpi_futures", None) or ():
            future.add_done_callback(self._ended)

    async def watch(self) -> None:
        """Look until the engine has died, or for ever."""
        while not self._deaths.reason.done():
            gone = [worker.pid for worker in self._workers if not worker.alive()]
            if gone:
                self._deaths.failed(f"the engine's own worker process {gone[0]} has ended")
            else:
                self._ask()
            await asyncio.sleep(_POLL_S)

    def _ask(self) -> None:
        try:
            well = self._check is None or self._check()
        except (RuntimeError, AttributeError, TypeError, ValueError, OSError) as error:
            # It is no public function: another release may have it do something else.
            self._deaths.failed(f"the health of the engine cannot be asked for: {type(error).__name__}: {error}")
            return
        if not well:
            self._deaths.ended("TensorRT-LLM says that its engine is not healthy any more, and the log says why")

    def _ended(self, future: Any) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._deaths.failed(f"the engine's worker failed: {error}")
        else:
            self._deaths.ended("the engine's worker has ended, and the log says why")


def _workers(root: int) -> list[ProcessId]:
    """The running descendants of a process that are an engine's workers."""
    below = children(root)
    found = [child for child in below if any(program in _command(child.pid) for program in _WORKERS)]
    return found + [worker for child in below for worker in _workers(child.pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
