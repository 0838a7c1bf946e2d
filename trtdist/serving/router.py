"""`python -m trtdist.serving.router RUN_DIR`: says who serves a request; no token passes through it."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from trtdist.errors import RunFailedError
from trtdist.events import EventWriter, Rung
from trtdist.plan import Plan
from trtdist.rundir import RunDir
from trtdist.serving.discovery import Watcher
from trtdist.serving.member import Identity, Member
from trtdist.serving.policies import policy_named
from trtdist.serving.program import asked, run_program, run_until_stopped
from trtdist.serving.protocol import Control, Failure, Notice, decode_held, decode_route_call
from trtdist.serving.routing import Desk
from trtdist.serving.run_config import RunConfig
from trtdist.serving.slug import ROUTER, component_of_role, held_subject, instance_prefix
from trtdist.serving.wire import ProtocolError

__all__ = ["Router", "route"]


class Router:
    """Answers RouteCalls from a live view of the instances."""

    def __init__(self, desk: Desk, watcher: Watcher) -> None:
        self._desk = desk
        self._watcher = watcher
        self._now = asyncio.get_running_loop().time

    async def answer(self, data: bytes) -> bytes:
        """What to say to a RouteCall."""
        try:
            call = decode_route_call(data)
        except ProtocolError as error:
            return Failure("bad_request", str(error)).encode()
        return self._desk.decide(call, self._watcher.snapshot, self._now()).encode()

    def control(self, message: Control) -> None:
        """Take the workers' notices."""
        if isinstance(message, Notice):
            self._desk.note(message, self._now())

    def held(self, data: bytes) -> None:
        """Take what workers tell of the blocks that they hold."""
        self._desk.held(decode_held(data))

    def stats(self) -> dict[str, Any]:
        """What `$SRV.STATS` tells: how many instances are known, and what they do and hold."""
        return {"instances": len(self._watcher.snapshot.instances), **self._desk.stats(self._now())}


async def route(config: RunConfig, plan: Plan, events: EventWriter, stop: asyncio.Event) -> None:
    """Route until `stop`; RunFailedError says why it had to end before."""
    policy = policy_named(plan.router_policy)
    roles = list(dict.fromkeys(server.role for server in plan.servers))
    async with Member(config, Identity(ROUTER, "router")) as member:
        async with Watcher(member.etcd, instance_prefix(config.namespace)) as watcher:
            rules = (plan.router_weights, plan.router_direct_below)
            desk = Desk(roles, policy, member.instance.control_subject, *rules)
            router = Router(desk, watcher)
            for role in roles:
                await member.listen(held_subject(config.namespace, component_of_role(role)), router.held)
            with watcher.calling(desk.changed):
                await member.serve(router.answer, router.control, router.stats)
                events.write(Rung("router", "registered", member.instance.key))
                now, key = time.strftime("%H:%M:%S"), member.instance.key
                print(f"{now} the router answers as {key}, policy {plan.router_policy}", flush=True)
                reason = await member.must_leave(asked(stop))
        await member.withdraw()
    if reason:
        raise RunFailedError(f"the router stops: {reason}")


def _work(run_dir: Path) -> None:
    events = EventWriter(RunDir(run_dir).event_file("router"))
    events.write(Rung("router", "process"))
    config = RunConfig.load(run_dir)
    plan = config.plan()
    run_until_stopped(lambda stop: route(config, plan, events, stop))


if __name__ == "__main__":
    sys.exit(run_program(sys.argv[1:], _work))
