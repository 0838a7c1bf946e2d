"""A process of a run that takes requests: its connections, its lease, its NATS service and its instance."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from nats import errors
from nats.aio.msg import Msg
from nats.micro import add_service
from nats.micro.request import Request

from trtdist.serving.direct import DirectClient
from trtdist.serving.discovery import Instance, Registration
from trtdist.serving.etcd import EtcdClient, EtcdError
from trtdist.serving.nats_connection import NatsError, confirm, connect, disconnect, report_to_stderr
from trtdist.serving.protocol import Control, decode_control
from trtdist.serving.run_config import RunConfig
from trtdist.serving.slug import ENDPOINT, newcomers_key, service_slug
from trtdist.serving.waiting import first_of, within
from trtdist.serving.wire import ProtocolError

__all__ = ["Identity", "Member"]

SERVICE_VERSION = "0.0.1"
QUEUE_GROUP = "q"
CONNECT_S = CONFIRM_S = 10.0
WITHDRAW_S = 1.0

Answer = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True)
class Identity:
    """Who a member is: its component, its name in the plan, and its engine ("" for none)."""

    component: str
    server: str
    engine: str = ""


class Member:
    """Takes part in a run while in `async with`: connected to NATS and etcd, with a lease of its own.

    Requests come after `serve`. A member must leave when `must_leave` says so.
    """

    def __init__(self, config: RunConfig, identity: Identity) -> None:
        self._config = config
        self._identity = identity
        self._stack = contextlib.AsyncExitStack()
        self._cut_off = asyncio.Event()

    async def __aenter__(self) -> Member:
        config, identity = self._config, self._identity
        async with contextlib.AsyncExitStack() as stack:
            self.nats = await _connect(config, identity.server, self._cut_off)
            stack.push_async_callback(disconnect, self.nats)
            self.etcd = await stack.enter_async_context(EtcdClient(config.etcd_endpoints, config.etcd_tls))
            self._registration = await stack.enter_async_context(Registration(self.etcd))
            lease = self._registration.lease_id
            names = (config.namespace, identity.component, ENDPOINT)
            self.instance = Instance.of(*names, lease, identity.server, identity.engine)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def serve(
        self, answer: Answer, control: Callable[[Control], None], data: Callable[[], dict[str, Any]]
    ) -> None:
        """Take requests and control messages, then be found; `data` is what `$SRV.STATS` tells beside the counts.

        NatsError when the server hangs, or leaves meanwhile.
        """

        async def take(request: Request) -> None:
            await request.respond(await answer(request.data))

        try:
            await _add_service(self.nats, self.instance, take, data)
            await self.listen(self.instance.control_subject, lambda data: control(decode_control(data)))
            await confirm(self.nats, CONFIRM_S)
        except (errors.Error, NatsError) as error:
            url = self._config.nats_url
            raise NatsError(f"NATS at {url} does not confirm the subscriptions ({error}): is it running?") from None
        # Whoever comes later than the first canaries is given no requests before one has crossed it.
        if self.instance.engine and await self.etcd.get(newcomers_key(self.instance.namespace)) is not None:
            self.instance = replace(self.instance, proven=False)
        await self._registration.publish(self.instance)

    async def listen(self, subject: str, take: Callable[[bytes], None]) -> None:
        """Take what comes to a subject; what makes no sense (ProtocolError) is told in the log and ignored."""

        async def heard(message: Msg) -> None:
            try:
                take(message.data)
            except ProtocolError as error:
                report_to_stderr(f"a control message was ignored: {error}")

        await self.nats.subscribe(subject, cb=heard)

    async def must_leave(self, *others: Coroutine[Any, Any, str]) -> str:
        """Why to leave, in a sentence: the lease is lost, NATS stays away, or what the first of `others` says."""
        return await first_of(*others, self._registration.lost(), self._nats_lost())

    async def withdraw(self) -> None:
        """Be found no more; when etcd does not answer soon, the end of the lease does it."""
        with contextlib.suppress(EtcdError, asyncio.TimeoutError):
            await within(WITHDRAW_S, self._registration.withdraw())

    async def _nats_lost(self) -> str:
        await self._cut_off.wait()
        return f"the connection to NATS at {self._config.nats_url} was lost and did not come back: is it running?"


async def _connect(config: RunConfig, name: str, cut_off: asyncio.Event) -> DirectClient:
    login = (config.nats_user, config.nats_password)
    return await connect(config.nats_url, *login, name, lost=cut_off.set, seconds=CONNECT_S, tls=config.nats_tls)


async def _add_service(
    nats: DirectClient,
    instance: Instance,
    take: Callable[[Request], Awaitable[None]],
    data: Callable[[], dict[str, Any]],
) -> None:
    """Answer `$SRV.PING`, `INFO` and `STATS`, and requests on the subject that Triton Distributed would give it."""
    slug = service_slug(instance.namespace, instance.component)
    service = await add_service(
        nats,
        name=slug,
        version=SERVICE_VERSION,
        description=f"{instance.server} of {instance.namespace}",
        metadata={"server": instance.server, "engine": instance.engine, "lease": instance.lease_hex},
        stats_handler=lambda endpoint: data(),
    )
    own = f"{instance.endpoint}-{instance.lease_hex}"
    group = service.add_group(name=slug, queue_group=QUEUE_GROUP)
    await group.add_endpoint(name=f"{slug}-{own}", subject=own, handler=take)
