"""tensorrt_llm/executor/ipc.py: queues between the proxy and its workers, found by their address."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from typing import Any

_here: dict[str, Any] = {}


class _Pipe:
    """A queue to another process. multiprocessing's own has semaphores, which stay in /dev/shm when all are killed."""

    def __init__(self, ends: Any = None) -> None:
        self._reader, self._writer = ends or multiprocessing.get_context("spawn").Pipe(duplex=False)
        self._lock = threading.Lock()

    def __reduce__(self):
        return _Pipe, ((self._reader, self._writer),)

    def put(self, item: Any) -> None:
        """Hand an item over."""
        with self._lock:
            self._writer.send(item)

    def get(self, timeout: float | None = None) -> Any:
        """The next item; queue.Empty when none comes in time."""
        if not self._reader.poll(timeout):
            raise queue.Empty
        return self._reader.recv()


def make(name: str, apart: bool) -> str:
    """Make a queue, for another process if `apart`; its address."""
    _here[name] = _Pipe() if apart else queue.Queue()
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
