"""Waiting on Python 3.9, where `asyncio.wait_for` can lose a cancellation and `asyncio.timeout` does not exist."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["end_task", "first_of", "within"]

T = TypeVar("T")


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
