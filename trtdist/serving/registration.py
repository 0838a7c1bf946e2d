"""Being found: keys in etcd that live as long as the process renews its lease."""

from __future__ import annotations

import asyncio
from types import TracebackType

from trtdist.errors import TrtdistError
from trtdist.serving.etcd import EtcdClient, EtcdError, EtcdUnavailableError, LeaseGoneError
from trtdist.serving.instance import Instance
from trtdist.serving.waiting import end_task

__all__ = ["LEASE_TTL_S", "Registration", "RegistrationError"]

LEASE_TTL_S = 10
GIVE_BACK_S = 1.0
RETRY_PAUSE_S, MIN_TRY_S = 0.05, 0.5


class RegistrationError(TrtdistError):
    """An instance could not be registered."""


class Registration:
    """A lease with the instances under it, held while in `async with`.

    Entering grants the lease and starts renewing it; the instances are published afterwards, once they answer.
    Leaving revokes the lease, so the keys vanish at once. A process that loses its lease must stop serving: it races
    its work against `lost`.
    """

    def __init__(self, client: EtcdClient, ttl: int = LEASE_TTL_S) -> None:
        self._client = client
        self._ttl = ttl
        self._lease = 0
        self._published: list[Instance] = []
        self._keeper: asyncio.Task[str] | None = None

    @property
    def lease_id(self) -> int:
        """The id of the lease, from which subjects are made."""
        return self._lease

    async def __aenter__(self) -> Registration:
        asked = asyncio.get_running_loop().time()
        self._lease = await self._client.grant(self._ttl)
        self._keeper = asyncio.ensure_future(self._keep(asked + self._ttl))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            await end_task(self._keeper)
        try:
            await self._client.revoke(self._lease, GIVE_BACK_S)
        except EtcdError:
            return  # it ends by itself when its time is over

    async def publish(self, instance: Instance) -> None:
        """Make an instance known; RegistrationError when somebody else has its key or the lease is gone."""
        value = instance.to_value()
        try:
            created = await self._client.create(instance.key, value, self._lease)
        except LeaseGoneError:
            raise RegistrationError(f"{instance.key} was not registered: its lease is gone already") from None
        except EtcdUnavailableError:
            found = await self._client.get(instance.key)
            created = found is not None and found.lease == self._lease
        if not created:
            raise RegistrationError(f"{instance.key} is registered already: is another run using this name?")
        self._published.append(instance)

    async def withdraw(self) -> None:
        """Delete the keys but keep the lease: no new requests come while the last ones are finished."""
        while self._published:
            await self._client.delete(self._published[-1].key)
            self._published.pop()

    async def lost(self) -> str:
        """Returns, with the reason in a sentence, only when the lease is lost."""
        if self._keeper is None:
            raise RuntimeError("the registration is not entered")
        return await asyncio.shield(self._keeper)

    async def _keep(self, end: float) -> str:
        clock = asyncio.get_running_loop().time
        pause = self._ttl / 3
        problem = ""
        while True:
            await asyncio.sleep(max(0.0, min(pause, end - clock())))
            asked = clock()
            if asked >= end and problem:
                return f"lease {self._lease:x} could not be renewed for {self._ttl} s: {problem}"
            try:
                ttl = await self._client.keep_alive(self._lease, max(MIN_TRY_S, min(end - asked, self._ttl / 3)))
            except LeaseGoneError as error:
                return f"lease {self._lease:x} is lost: {error}"
            except EtcdError as error:
                problem, pause = str(error), RETRY_PAUSE_S
            else:
                end, problem, pause = asked + ttl, "", self._ttl / 3
