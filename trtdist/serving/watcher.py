"""A live view of the instances under a prefix."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Callable

from trtdist.errors import InputError, NotReadyError
from trtdist.serving.etcd import CompactedError, EtcdClient, EtcdError, EtcdUnavailableError, KeyValue, WatchBatch
from trtdist.serving.heir import Heir
from trtdist.serving.instance import Instance
from trtdist.serving.waiting import end_task, within

__all__ = ["Change", "Snapshot", "Watcher"]

PROBE_EVERY_S, PROBE_WITHIN_S = 5.0, 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
DIFFERENCES_TO_RESTART = 2


@dataclass(frozen=True)
class Snapshot:
    """All instances at one moment, in key order.

    `heir` is the run that has taken over from this one. `stale` is "" while etcd answers; otherwise it says why this
    may be out of date. `rejected` has a sentence for each key under the prefix that is no instance.
    """

    instances: tuple[Instance, ...] = ()
    stale: str = ""
    rejected: tuple[str, ...] = ()
    heir: Heir | None = None

    def of(self, component: str, endpoint: str = "generate") -> tuple[Instance, ...]:
        """The instances of one component's endpoint."""
        return tuple(one for one in self.instances if (one.component, one.endpoint) == (component, endpoint))

    def server(self, name: str) -> Instance | None:
        """The instance that serves as this server of the plan, None when it is not registered."""
        return next((one for one in self.instances if one.server == name), None)

    def lease(self, lease_id: int) -> Instance | None:
        """The instance with this lease, None when it is gone."""
        return next((one for one in self.instances if one.lease_id == lease_id), None)


@dataclass(frozen=True)
class Change:
    """What a change of the view was: who came and who went; both empty when only `stale` changed."""

    appeared: tuple[Instance, ...]
    vanished: tuple[Instance, ...]
    snapshot: Snapshot


@dataclass(frozen=True)
class _Entry:
    revision: int
    instance: Instance | None
    problem: str = ""
    heir: Heir | None = None

    @classmethod
    def of(cls, item: KeyValue) -> _Entry:
        try:
            heir = Heir.from_entry(item)
            instance = Instance.from_entry(item) if heir is None else None
            return cls(item.mod_revision, instance, heir=heir)
        except InputError as error:
            return cls(item.mod_revision, None, str(error))


class Watcher:
    """Follows a prefix of etcd while in `async with`; entering returns once the first list is there.

    After a broken connection it lists again and takes over the difference, so that nobody sees an empty list
    meanwhile; until then the snapshot says that it is stale. A slow list of keys checks every few seconds that the
    watch, which says nothing when nothing happens, still has everything.
    """

    def __init__(self, client: EtcdClient, prefix: str, probe_every: float = PROBE_EVERY_S) -> None:
        self._client = client
        self._prefix = prefix
        self._probe_every = probe_every
        self._pause = FIRST_PAUSE_S
        self._entries: dict[str, _Entry] = {}
        self._snapshot = Snapshot()
        self._callbacks: list[Callable[[Change], None]] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The instances as known now."""
        return self._snapshot

    async def __aenter__(self) -> Watcher:
        revision = await self._list()
        self._task = asyncio.ensure_future(self._follow(revision))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await end_task(self._task)

    def rest(self) -> None:
        """Ask etcd no more: nothing of it is of interest from now on."""
        if self._task is not None:
            self._task.cancel()

    @contextlib.contextmanager
    def calling(self, callback: Callable[[Change], None]) -> Iterator[None]:
        """Have every change told, in order and at once, while in `with`; the callback must not block or raise."""
        self._callbacks.append(callback)
        try:
            yield
        finally:
            self._callbacks.remove(callback)

    async def changes(self) -> AsyncIterator[Snapshot]:
        """The snapshot now and after every change; what comes faster than it is taken is merged."""
        seen = None
        while True:
            if self._snapshot is seen:
                await self._changed()
                continue
            seen = self._snapshot
            yield seen

    async def wait_for(self, predicate: Callable[[Snapshot], bool], seconds: float, what: str) -> Snapshot:
        """The first snapshot for which the predicate holds; NotReadyError names `what` after `seconds`."""
        try:
            return await within(seconds, self._until(predicate))
        except asyncio.TimeoutError:
            known = ", ".join(one.server or one.key for one in self._snapshot.instances) or "nobody"
            stale = f"; {self._snapshot.stale}" if self._snapshot.stale else ""
            raise NotReadyError(
                f"{what} did not happen within {seconds:g} s: registered under {self._prefix} is {known}{stale}"
            ) from None

    async def _until(self, predicate: Callable[[Snapshot], bool]) -> Snapshot:
        while not predicate(self._snapshot):
            await self._changed()
        return self._snapshot

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def _list(self) -> int:
        found = await self._client.range(self._prefix)
        self._entries = {item.key: _Entry.of(item) for item in found.items}
        self._show("")
        return found.revision

    async def _follow(self, listed: int) -> None:
        revision: int | None = listed
        while True:
            try:
                if revision is None:
                    revision = await self._list()
                await self._race(revision)
            except CompactedError:
                revision = None
            except EtcdError as error:
                revision = None
                self._show(str(error))
                await asyncio.sleep(self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE_S)

    async def _race(self, revision: int) -> None:
        # The watch is opened here too: an etcd that hangs at that moment is noticed by the probe.
        tasks = [asyncio.ensure_future(self._read(revision)), asyncio.ensure_future(self._probe())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                if not task.done():
                    await end_task(task)
        for task in done:
            task.result()

    async def _read(self, revision: int) -> None:
        async with self._client.watch(self._prefix, revision + 1) as watch:
            self._pause = FIRST_PAUSE_S
            async for batch in watch:
                self._take_over(batch)

    def _take_over(self, batch: WatchBatch) -> None:
        for event in batch.events:
            if event.deleted:
                self._entries.pop(event.item.key, None)
            else:
                self._entries[event.item.key] = _Entry.of(event.item)
        if batch.events:
            self._show(self._snapshot.stale)

    async def _probe(self) -> None:
        differences = 0
        while differences < DIFFERENCES_TO_RESTART:
            await asyncio.sleep(self._probe_every)
            try:
                found = await self._client.range(self._prefix, keys_only=True, seconds=PROBE_WITHIN_S)
            except EtcdError as error:
                self._show(str(error))
                continue
            theirs = {item.key: item.mod_revision for item in found.items}
            ours = {key: entry.revision for key, entry in self._entries.items()}
            differences = 0 if theirs == ours else differences + 1
            self._show("")
        raise EtcdUnavailableError(f"the watch on {self._prefix} tells nothing any more although keys change")

    def _show(self, stale: str) -> None:
        before = self._snapshot
        entries = [self._entries[key] for key in sorted(self._entries)]
        instances = tuple(entry.instance for entry in entries if entry.instance is not None)
        rejected = tuple(entry.problem for entry in entries if entry.problem)
        heir = next((entry.heir for entry in entries if entry.heir is not None), None)
        after = Snapshot(instances, stale, rejected, heir)
        if after == before:
            return
        self._snapshot = after
        old, new = set(before.instances), set(instances)
        change = Change(
            tuple(one for one in instances if one not in old),
            tuple(one for one in before.instances if one not in new),
            after,
        )
        for callback in tuple(self._callbacks):
            callback(change)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
