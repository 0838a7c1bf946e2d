"""Ranks that are threads of one process: links without MPI, and engines over them."""

from __future__ import annotations

import asyncio
import queue
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trtdist.engines.base import EngineConfig
from trtdist.engines.reference.engine import ReferenceEngine
from trtdist.engines.reference.links import Links, Mailbox
from trtdist.engines.reference.store import Store
from trtdist.plan import Plan, Server

__all__ = ["Deployment", "Group", "Post"]


class Group:
    """Ranks that add up together."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=30)
        self._parts: dict[int, NDArray[np.float64]] = {}

    def allreduce(self, rank: int, values: NDArray[np.float64]) -> None:
        self._parts[rank] = values.copy()
        self._barrier.wait()
        total = sum(self._parts.values())
        self._barrier.wait()
        values[...] = total

    def abort(self) -> None:
        """Let everybody who waits here, or will, fail."""
        self._barrier.abort()


class Post:
    """Messages between ranks."""

    def __init__(self, size: int) -> None:
        self._boxes: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(size)]

    def mailbox(self, rank: int) -> Mailbox:
        return _Box(self._boxes, rank)


class _Box:
    def __init__(self, boxes: list[queue.SimpleQueue[Any]], rank: int) -> None:
        self._boxes = boxes
        self._rank = rank

    def send(self, to: int, message: Any) -> None:
        self._boxes[to].put(message)

    def receive(self) -> Any | None:
        try:
            return self._boxes[self._rank].get_nowait()
        except queue.Empty:
            return None

    def moving(self) -> bool:
        return False


class _Links:
    def __init__(self, deployment: Deployment, server: Server, rank: int) -> None:
        self._group = deployment.groups[server.name]
        self._rank = rank
        self._world_rank = server.ranks[rank].world_rank
        self._leaving = deployment.leaving[server.name]
        self._all = deployment.leaving_size(server)
        self.server: Mailbox = deployment.posts[server.name].mailbox(rank)
        self.world: Mailbox = deployment.world.mailbox(self._world_rank)
        self.closed = False

    def allreduce(self, values: NDArray[np.float64]) -> None:
        self._group.allreduce(self._rank, values)

    def all_leaving(self) -> bool:
        self._leaving.add(self._world_rank)
        return len(self._leaving) == self._all

    def close(self) -> None:
        self.closed = True


class Deployment:
    """All ranks of a plan as threads; `engines` has the leaders by server name."""

    def __init__(self, plan: Plan, run_dir: Path) -> None:
        self.plan = plan
        self.world = Post(plan.world_size)
        self.posts = {server.name: Post(server.size) for server in plan.servers}
        self.groups = {server.name: Group(server.size) for server in plan.servers}
        common: set[int] = set()
        alone = plan.launch == "per_server"
        self.leaving = {server.name: set() if alone else common for server in plan.servers}
        self._stores: list[Store] = []
        self.links: list[_Links] = []
        self.threads: list[threading.Thread] = []
        self.failures: dict[str, BaseException] = {}
        self.engines: dict[str, ReferenceEngine] = {}
        for server in plan.servers:
            for rank in server.ranks:
                engine = ReferenceEngine(EngineConfig(plan, server, rank.rank, run_dir), self._connect)
                self._stores.append(engine.store)
                if rank.leader:
                    self.engines[server.name] = engine
                else:
                    name = f"{server.name}.{rank.rank}"
                    self.threads.append(threading.Thread(target=self._follow, args=(engine, name), daemon=True))

    def stores(self, server: str) -> list[Store]:
        """Where the ranks of a server keep KV caches, in rank order."""
        ranks = self.plan.server(server).ranks
        return [self._stores[rank.world_rank] for rank in ranks]

    def leaving_size(self, server: Server) -> int:
        """How many ranks end together with this server's."""
        return server.size if self.plan.launch == "per_server" else self.plan.world_size

    async def __aenter__(self) -> Deployment:
        for thread in self.threads:
            thread.start()
        for engine in self.engines.values():
            await engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        # All at once, since ranks of one world end together.
        stopping = [asyncio.ensure_future(engine.stop()) for engine in self.engines.values()]
        await asyncio.gather(*stopping)
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads)

    def _connect(self, config: EngineConfig) -> Links:
        links = _Links(self, config.server, config.rank)
        self.links.append(links)
        return links

    def _follow(self, engine: ReferenceEngine, name: str) -> None:
        try:
            engine.follow()
        except BaseException as error:
            self.failures[name] = error
