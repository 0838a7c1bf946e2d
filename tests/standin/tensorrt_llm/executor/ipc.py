"""tensorrt_llm/executor/ipc.py: queues between the proxy and its workers, found by their address."""

from __future__ import annotations

import multiprocessing
import queue
from typing import Any

_here: dict[str, Any] = {}


def make(name: str, apart: bool) -> str:
    """Make a queue, for another process if `apart`; its address."""
    _here[name] = multiprocessing.get_context("spawn").Queue() if apart else queue.Queue()
    return name


def find(address: str) -> Any:
    """The queue at an address."""
    return _here[address]


def shared() -> dict[str, Any]:
    """All queues, for a process that is about to be started."""
    return dict(_here)


def adopt(queues: dict[str, Any]) -> None:
    """Take over the queues of the process that started this one."""
    _here.update(queues)
