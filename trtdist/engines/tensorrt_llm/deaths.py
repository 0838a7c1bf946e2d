"""How the end of an engine is noticed: every sign of it, from whichever thread, and the one that says most.

TensorRT-LLM waits where it should notice. A rank that fails to load logs it and returns (`worker_main` in
`tensorrt_llm/executor/worker.py`), `LLM` then waits for the ranks that still load, and `shutdown_abort` gives them a
minute; ranks that do not lead stay in MPICommExecutor without a time limit.
"""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["SETTLE_S", "Deaths"]

# A bare end is often followed by the error that explains it, from another thread.
SETTLE_S = 1.0


class Deaths:
    """The reason why an engine ended without being asked to, once there is one. Made in the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.reason: asyncio.Future[str] = self._loop.create_future()
        self._stopping = False

    def stop(self) -> None:
        """From now on the engine ends because it was asked to."""
        self._stopping = True

    def ended(self, what: str) -> None:
        """Something ended without saying why; what explains it may come within a second. From any thread."""
        self._tell(what, SETTLE_S)

    def failed(self, why: str) -> None:
        """Something failed for a reason. From any thread."""
        self._tell(why, 0.0)

    def _tell(self, text: str, seconds: float) -> None:
        # The loop may have ended in the meantime, and then nobody asks any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._settle, text)

    def _settle(self, text: str) -> None:
        if not self._stopping and not self.reason.done():
            self.reason.set_result(text)
