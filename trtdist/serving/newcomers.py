"""Servers that come once a run is ready, since they were started again: each is proved before it gets requests.

The canary program sends a prompt through each, with a partner that serves already if there is one, and then puts it
into etcd as proven, for routers and clients alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

from trtdist.serving.discovery import Instance, Snapshot, Watcher
from trtdist.serving.etcd import EtcdClient, EtcdError
from trtdist.serving.slug import CONTEXT, GENERATION, newcomers_key
from trtdist.serving.waiting import end_task

__all__ = ["Newcomers", "announce", "proved"]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
_READY = b'{"ready": true}'

# Sends one prompt through a context server ("" for none) and a generation server; says whether it was answered.
Try = Callable[[str, str], Awaitable[bool]]


async def announce(etcd: EtcdClient, namespace: str, ready: bool) -> None:
    """From now on, servers that register have to be proved; `ready` says whether the first ones have been."""
    await etcd.put(newcomers_key(namespace), _READY if ready else b"{}")


async def proved(etcd: EtcdClient, namespace: str) -> bool:
    """Whether the first servers of a run have been proved."""
    found = await etcd.get(newcomers_key(namespace))
    return found is not None and found.value == _READY


class Newcomers:
    """Proves each server that is registered and not proven, for as long as it takes; `told` gets each that is
    proven, until it says that it told of it, without those whose keys are `known` from the start."""

    def __init__(
        self,
        etcd: EtcdClient,
        watcher: Watcher,
        attempt: Try,
        told: Callable[[Instance], bool],
        known: Collection[str] = (),
    ) -> None:
        self._etcd = etcd
        self._watcher = watcher
        self._attempt = attempt
        self._told = told
        self._known = frozenset(known)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def prove(self) -> None:
        """For ever."""
        try:
            async for snapshot in self._watcher.changes():
                there = {one.key for one in snapshot.instances if one.engine} - self._known
                self._tasks = {key: task for key, task in self._tasks.items() if key in there or not task.done()}
                for key in there - self._tasks.keys():
                    self._tasks[key] = asyncio.ensure_future(self._prove(key))
        finally:
            for task in self._tasks.values():
                await end_task(task)

    async def _prove(self, key: str) -> None:
        """Until it is proven, also by a program before this one, or by a word to etcd whose answer was lost."""
        pause = FIRST_PAUSE_S
        while (instance := self._registered(key)) is not None:
            proven = instance.proven or (await self._passes(instance) and await self._mark(instance))
            if proven and self._told(instance):
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _registered(self, key: str) -> Instance | None:
        return next((one for one in self._watcher.snapshot.instances if one.key == key), None)

    async def _passes(self, instance: Instance) -> bool:
        if instance.component not in (CONTEXT, GENERATION):
            return await self._attempt("", instance.server)
        partner = _partner(instance, self._watcher.snapshot)
        if partner is None:
            return False
        if instance.component == CONTEXT:
            return await self._attempt(instance.server, partner)
        return await self._attempt(partner, instance.server)

    async def _mark(self, instance: Instance) -> bool:
        try:
            return await self._etcd.replace(instance.key, replace(instance, proven=True).to_value(), instance.lease_id)
        except EtcdError:
            return False


def _partner(instance: Instance, snapshot: Snapshot) -> str | None:
    """A server of the other role, one that serves already if there is any."""
    others = snapshot.of(GENERATION if instance.component == CONTEXT else CONTEXT)
    chosen = next((one for one in others if one.proven), others[0] if others else None)
    return None if chosen is None else chosen.server
