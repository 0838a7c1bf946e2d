"""What context servers work on and will hand to this generation server, which must not leave meanwhile."""

from __future__ import annotations

import asyncio

from trtdist.serving.protocol import Coming

__all__ = ["OnTheWay"]

# A requester has far fewer at a time; who tells of more is not waited for.
MOST = 65536


class OnTheWay:
    """The newest attempt of each request that was told of, until it is removed or has no time left."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[int, asyncio.TimerHandle]] = {}
        self._fewer = asyncio.Event()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, coming: Coming) -> None:
        """A context server has begun to read a prompt, or will not hand it on after all: then no time is left."""
        request_id, attempt = coming.request_id, coming.attempt
        if not coming.timeout:
            self.remove(request_id, attempt)
            return
        if self.has(request_id, attempt) or len(self) >= MOST:
            return
        self.remove(request_id, attempt)
        end = asyncio.get_running_loop().call_later(coming.timeout, self.remove, request_id, attempt)
        self._calls[request_id] = attempt, end

    def has(self, request_id: str, attempt: int) -> bool:
        """Whether this attempt of a request is on its way, or a newer one."""
        return request_id in self._calls and self._calls[request_id][0] >= attempt

    def remove(self, request_id: str, attempt: int) -> None:
        """This attempt of a request, or an older one, is here or will not come."""
        if request_id in self._calls and self._calls[request_id][0] <= attempt:
            _, end = self._calls.pop(request_id)
            end.cancel()
            self._fewer.set()

    def clear(self) -> None:
        """Nothing is waited for any more."""
        for request_id, (attempt, _) in tuple(self._calls.items()):
            self.remove(request_id, attempt)

    async def fewer(self) -> None:
        """Return once one has been removed."""
        self._fewer.clear()
        await self._fewer.wait()
