"""Waiting on Python 3.9, where `asyncio.wait_for` can lose a cancellation and `asyncio.timeout` does not exist."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["end_task", "first_of", "until_passed", "within"]

T = TypeVar("T")
# What is awaited may be there a moment after us: the first try again comes soon.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended; its result or error is dropped."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, or asyncio.TimeoutError after `seconds`; the work has ended in either case."""
    task: asyncio.Task[T] = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=max(0.0, seconds))
    except asyncio.CancelledError:
        await end_task(task)
        raise
    if not done:
        await end_task(task)
        raise asyncio.TimeoutError
    return task.result()


async def first_of(*works: Coroutine[Any, Any, T]) -> T:
    """The result of the work that ends first; the others are cancelled, and all have ended."""
    tasks: list[asyncio.Task[T]] = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = next(task for task in tasks if task.done())
    finally:
        for task in tasks:
            await end_task(task)
    return ended.result()


async def until_passed(passed: Callable[[], Awaitable[bool]]) -> None:
    """Return when a try has passed; the pauses between them grow."""
    pause = _FIRST_PAUSE_S
    while not await passed():
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
