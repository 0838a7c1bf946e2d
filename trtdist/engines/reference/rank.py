"""What every rank does, the leader among them: its shard of the model, its part of the KV caches."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trtdist.engines.base import EngineConfig, EngineError
from trtdist.engines.reference.cache import Cache, digest
from trtdist.engines.reference.knobs import Knobs
from trtdist.engines.reference.links import Links
from trtdist.engines.reference.messages import (
    Action,
    Drop,
    Fetch,
    Fetched,
    Forward,
    Keep,
    Kept,
    Ready,
    Refused,
    Release,
    Remember,
    Report,
    Reuse,
)
from trtdist.engines.reference.model import Shard
from trtdist.engines.reference.prefixes import Prefixes
from trtdist.engines.reference.shape import head_bytes
from trtdist.engines.reference.store import Store
from trtdist.engines.reference.tcp import TcpTransport, listening_host, listening_ports, read_key
from trtdist.engines.reference.transport import Arrival, MpiTransport, Transport

if TYPE_CHECKING:
    from trtdist.engines.reference.arithmetic import Array

__all__ = ["Pace", "RankWork", "say"]

_SHORTEST_PAUSE_S = 0.00002
_LONGEST_PAUSE_S = 0.025
_CALMING = 4


def say(sentence: str) -> None:
    """One line of the rank's log, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} reference engine: {sentence}", file=sys.stderr, flush=True)


class Pace:
    """How long a rank that found nothing to do waits before it looks again.

    A share of the time since it last had work, up to 25 ms: quick in the middle of an answer, next to nothing of a
    core when idle. `ring` ends a pause early.
    """

    def __init__(self) -> None:
        self._worked = time.monotonic()
        # Locked unless rung. A lock costs half of what an Event does, and an idle rank does little else.
        self._bell = threading.Lock()
        self._bell.acquire()

    def ring(self) -> None:
        """End the pause, or the next one; from any thread."""
        with contextlib.suppress(RuntimeError):
            self._bell.release()

    def worked(self) -> None:
        """There was work just now."""
        self._worked = time.monotonic()

    def rest(self) -> None:
        """Wait a little."""
        share = (time.monotonic() - self._worked) / _CALMING
        self._bell.acquire(timeout=max(_SHORTEST_PAUSE_S, min(_LONGEST_PAUSE_S, share)))


class RankWork:
    """One rank's share: `execute` does what the leader decided, `poll` moves KV caches meanwhile."""

    def __init__(self, config: EngineConfig, knobs: Knobs, links: Links, store: Store, pace: Pace) -> None:
        server = config.server
        self.rank = config.rank
        self._store = store
        self._tp = server.tensor_parallel_size
        self._knobs = knobs
        self._sampled = 0
        self._links = links
        self._caches: dict[int, Cache] = {}
        self._prefixes = Prefixes()
        self._fetching: dict[int, Fetch] = {}
        self._kept: list[Report] = []
        self._shard = Shard(self._tp, self.rank, links.allreduce)
        self._transport = _transport(config, links, store, pace.ring)
        if knobs.load_error is not None:
            raise EngineError(knobs.load_error)
        model = config.plan.model
        say(f"loaded {model} for {server.name}, TP{self._tp} rank {self.rank}; its weights are made up, not trained")

    def ready(self) -> Ready:
        """The report that this rank has loaded."""
        return Ready(self.rank, self._transport.place)

    def held(self, tokens: Sequence[int]) -> int:
        """How many tokens of a prompt are held from earlier ones, here and on every other rank."""
        return self._prefixes.held(tokens)

    def execute(self, actions: Sequence[Action]) -> dict[int, Array]:
        """Do what all ranks do together, in order; the logits of each sequence that samples."""
        logits: dict[int, Array] = {}
        for action in actions:
            if isinstance(action, Forward):
                result = self._shard.forward(self._cache(action.sequence), action.tokens)
                if action.sample:
                    logits[action.sequence] = result
            elif isinstance(action, Reuse):
                self._caches[action.sequence] = self._prefixes.load(action.tokens, len(self._shard.heads))
            elif isinstance(action, Remember):
                self._prefixes.keep(action.tokens, self._caches[action.sequence])
            elif isinstance(action, Keep):
                self._keep(action)
            elif isinstance(action, Fetch):
                self._fetching[action.sequence] = action
                self._transport.fetch(action.sequence, action.handle, self._shard.heads)
            elif isinstance(action, Drop):
                self._caches.pop(action.sequence, None)
                self._fetching.pop(action.sequence, None)
            elif isinstance(action, Release):
                self._store.release(action.number)
        self._sampled += len(logits)
        return logits

    def exit_if_told(self) -> None:
        """End this process, as `exit_after_tokens` asks for."""
        limit = self._knobs.exit_after_tokens
        if limit is not None and self._sampled and self._sampled >= limit:
            say(f"exits with code {self._knobs.exit_code} after {self._sampled} tokens, as it was told to")
            os._exit(self._knobs.exit_code)

    def poll(self) -> list[Report]:
        """Let KV caches move; what there is to report. Does not wait."""
        self._store.expire()
        reports, self._kept = self._kept, []
        for arrival in self._transport.poll():
            fetch = self._fetching.pop(arrival.sequence, None)
            if fetch is not None:
                reports.append(self._arrived(fetch, arrival))
        return reports

    def moving(self) -> bool:
        """Whether messages of this rank are on their way."""
        return self._links.server.moving() or self._links.world.moving()

    def close(self) -> None:
        """Stop listening for those who fetch."""
        self._transport.close()

    def _cache(self, sequence: int) -> Cache:
        if sequence not in self._caches:
            self._caches[sequence] = Cache(len(self._shard.heads))
        return self._caches[sequence]

    def _keep(self, action: Keep) -> None:
        heads = self._caches.pop(action.sequence).packed(self._shard.heads)
        self._store.keep(action.number, heads)
        self._kept.append(Kept(self.rank, action.sequence, {head: digest(data) for head, data in heads.items()}))

    def _arrived(self, fetch: Fetch, arrival: Arrival) -> Report:
        problem = arrival.problem or self._damage(fetch, arrival)
        if problem:
            return Refused(self.rank, fetch.sequence, problem)
        self._caches[fetch.sequence] = Cache.unpacked(arrival.heads, fetch.handle.tokens)
        return Fetched(self.rank, fetch.sequence, sum(map(len, arrival.heads.values())))

    def _damage(self, fetch: Fetch, arrival: Arrival) -> str:
        size = head_bytes(fetch.handle.tokens)
        for head in self._shard.heads:
            data = arrival.heads.get(head, b"")
            if len(data) != size or digest(data) != fetch.handle.digests[head]:
                return f"the KV cache from {fetch.handle.server} arrived damaged at head {head}"
        return ""


def _transport(config: EngineConfig, links: Links, store: Store, wake: Callable[[], None]) -> Transport:
    plan, server = config.plan, config.server
    if plan.launch == "mpi_world" or server.role == "monolithic":
        return MpiTransport(server.ranks[config.rank].world_rank, links.world, store)
    host = listening_host(os.environ) if server.role == "context" else ""
    return TcpTransport(read_key(config.run_dir), store, wake, host, listening_ports(os.environ))
