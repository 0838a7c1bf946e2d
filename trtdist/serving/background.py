"""Tasks that nobody waits for: kept alive, and heard of when they fail."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine
from typing import Any

from trtdist.serving.waiting import end_task

__all__ = ["Background"]


class Background:
    """A set of running tasks."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`; an error in it is printed with its traceback, since it is a defect."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait until all have ended; False when some have not after `seconds`, if given."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)
        return not self._tasks

    async def end(self) -> None:
        """Cancel all, and wait until they have ended."""
        for task in tuple(self._tasks):
            await end_task(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            traceback.print_exception(type(error), error, error.__traceback__)
