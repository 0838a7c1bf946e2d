"""What each server works on, as far as the router was told."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from trtdist.serving.policies import Load
from trtdist.serving.protocol import Notice

__all__ = ["FORGET_S", "LoadBook"]

# A server that dies tells no end; its instance vanishes. This is for a notice that got lost.
FORGET_S = 900.0


@dataclass(frozen=True)
class _Entry:
    tokens: int
    until: float


class LoadBook:
    """Requests in flight by server and request, from the workers' notices and the router's own choices."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str, int], _Entry] = OrderedDict()
        self._loads: dict[str, Load] = {}

    def loads(self, now: float) -> Mapping[str, Load]:
        """The load by lease id (hex)."""
        self._expire(now)
        return self._loads

    def chosen(self, server: str, request_id: str, attempt: int, now: float) -> None:
        """A request is on its way to a server that has not told of it yet; its length is not known."""
        self._expire(now)
        self._add((server, request_id, attempt), _Entry(0, now + FORGET_S))

    def note(self, notice: Notice, now: float) -> None:
        """A server has begun, or done, its part of a request."""
        self._expire(now)
        key = (notice.server, notice.request_id, notice.attempt)
        if notice.event == "started":
            self._add(key, _Entry(notice.prompt_tokens, now + FORGET_S))
        else:
            self._remove(key)

    def keep(self, servers: Collection[str]) -> None:
        """Forget every server that is not among these."""
        for key in [key for key in self._entries if key[0] not in servers]:
            self._remove(key)

    def _expire(self, now: float) -> None:
        """Drop entries older than FORGET_S."""
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.until > now:
                break
            self._remove(key)

    def _add(self, key: tuple[str, str, int], entry: _Entry) -> None:
        self._remove(key)
        self._entries[key] = entry
        self._count(key[0], 1, entry.tokens)

    def _remove(self, key: tuple[str, str, int]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._count(key[0], -1, -entry.tokens)

    def _count(self, server: str, requests: int, tokens: int) -> None:
        load = self._loads.pop(server, Load())
        after = Load(load.requests + requests, load.tokens + tokens)
        if after.requests:
            self._loads[server] = after
