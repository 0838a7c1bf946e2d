"""What each server works on, as far as the router was told."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from trtdist.serving.policies import HALF_LIFE_S, Load
from trtdist.serving.protocol import Notice

__all__ = ["FORGET_S", "LoadBook", "Recent"]

# A server that dies tells no end; its instance vanishes. This is for a notice that got lost.
FORGET_S = 900.0


@dataclass(frozen=True)
class _Entry:
    tokens: int
    until: float
    # By the router, which knows what of the prompt is held; the server's notice counts all of it.
    foreseen: bool = False


class LoadBook:
    """Requests in flight by server and request, from the workers' notices and the router's own choices."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str, int], _Entry] = OrderedDict()
        self._loads: dict[str, Load] = {}

    def loads(self, now: float) -> Mapping[str, Load]:
        """The load by lease id (hex)."""
        self._expire(now)
        return self._loads

    def chosen(self, server: str, request_id: str, attempt: int, now: float, tokens: int = 0) -> None:
        """A request is on its way to a server that has not told of it yet; `tokens` to compute, 0 if not known."""
        self._expire(now)
        self._add((server, request_id, attempt), _Entry(tokens, now + FORGET_S, bool(tokens)))

    def note(self, notice: Notice, now: float) -> None:
        """A server has begun, or done, its part of a request."""
        self._expire(now)
        key = (notice.server, notice.request_id, notice.attempt)
        if notice.event == "started":
            known = self._entries.get(key)
            tokens = known.tokens if known is not None and known.foreseen else notice.prompt_tokens
            self._add(key, _Entry(tokens, now + FORGET_S))
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


class Recent:
    """The tokens that each server was given to compute of late; after HALF_LIFE_S they count half."""

    def __init__(self) -> None:
        self._tokens: dict[str, float] = {}
        self._at = 0.0

    def tokens(self, now: float) -> Mapping[str, float]:
        """What counts now."""
        fade = 0.5 ** ((now - self._at) / HALF_LIFE_S)
        self._tokens = {server: tokens * fade for server, tokens in self._tokens.items()}
        self._at = now
        return self._tokens

    def add(self, server: str, tokens: int) -> None:
        """A server was given work, at the time of the last look."""
        self._tokens[server] = self._tokens.get(server, 0.0) + tokens

    def keep(self, servers: Collection[str]) -> None:
        """Forget every server that is not among these."""
        self._tokens = {server: tokens for server, tokens in self._tokens.items() if server in servers}
