"""`python -m benchmarks.plane.relay RUN_DIR WORKERS_RUN_DIR`: a router that relays every chunk, for comparison.

It takes part in a run of its own as a server does, asks a worker of the other run, and publishes each message of the
answer again, as it is, to whoever asked: it neither decodes nor validates what passes, so a relay that does its work in
Python cannot cost less. Credits and cancellations pass in the other direction.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

from nats.aio.msg import Msg

from trtdist.serving.discovery import Watcher
from trtdist.serving.etcd import EtcdClient
from trtdist.serving.instance import Instance
from trtdist.serving.member import Identity, Member
from trtdist.serving.program import asked, run_until_stopped
from trtdist.serving.protocol import Cancel, Control, Credit, decode_call
from trtdist.serving.run_config import RunConfig
from trtdist.serving.slug import MONOLITHIC, instance_prefix

__all__: list[str] = []


class _Relay:
    def __init__(self, member: Member, worker: Instance) -> None:
        self._nats = member.nats
        self._worker = worker
        self._inbox = member.nats.new_inbox()
        self._askers: dict[str, str] = {}

    async def listen(self) -> None:
        await self._nats.subscribe(f"{self._inbox}.*", cb=self._pass_on, pending_msgs_limit=0, pending_bytes_limit=0)

    async def answer(self, data: bytes) -> bytes:
        call = decode_call(data)
        self._askers[call.request_id] = call.inbox
        asked_for = replace(call, inbox=f"{self._inbox}.{call.request_id}").encode()
        return bytes((await self._nats.request(self._worker.subject, asked_for, 5)).data)

    def control(self, message: Control) -> None:
        if isinstance(message, (Credit, Cancel)):
            task = asyncio.ensure_future(self._nats.publish(self._worker.control_subject, message.encode()))
            task.add_done_callback(lambda done: done.result())

    async def _pass_on(self, message: Msg) -> None:
        request_id = message.subject[len(self._inbox) + 1 :]
        await self._nats.publish(self._askers[request_id], message.data)
        if b'"finish_reason"' in message.data and "finish_reason" in json.loads(message.data):
            del self._askers[request_id]


async def _serve(config: RunConfig, workers: RunConfig, stop: asyncio.Event) -> None:
    etcd = EtcdClient(workers.etcd_endpoints, workers.etcd_tls)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(etcd)
        watcher = await stack.enter_async_context(Watcher(etcd, instance_prefix(workers.namespace)))
        seen = await watcher.wait_for(lambda snapshot: bool(snapshot.of(MONOLITHIC)), 10, "a worker")
        member = await stack.enter_async_context(Member(config, Identity(MONOLITHIC, "relay")))
        relay = _Relay(member, seen.of(MONOLITHIC)[0])
        await relay.listen()
        await member.serve(relay.answer, relay.control, dict)
        await member.must_leave(asked(stop))
        await member.withdraw()


if __name__ == "__main__":
    own, other = (RunConfig.load(Path(word)) for word in sys.argv[1:])
    run_until_stopped(lambda stop: _serve(own, other, stop))
