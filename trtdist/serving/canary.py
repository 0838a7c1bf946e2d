"""`python -m trtdist.serving.canary RUN_DIR`: proves with real prompts that every server of a run answers.

Waits until everybody is registered, asks each whether it hears, then sends prompts whose routes are pinned so that
every server takes part. A canary that fails is sent again; how long that may go on is the supervisor's decision.
Where servers are started again, it stays and proves those that come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nats import errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from trtdist.engines.base import Sampling
from trtdist.errors import RunFailedError, TrtdistError
from trtdist.events import CanaryFailed, CanaryPassed, Ready, Rung
from trtdist.plan import Plan
from trtdist.rundir import RunDir
from trtdist.serving import newcomers
from trtdist.serving.attempt import RequestError
from trtdist.serving.discovery import Instance, Snapshot, Watcher
from trtdist.serving.etcd import EtcdClient
from trtdist.serving.http1 import HttpError
from trtdist.serving.http_canary import Front
from trtdist.serving.nats_connection import connect, disconnect
from trtdist.serving.program import asked, run_program, run_until_stopped
from trtdist.serving.requester import Ask, Requester
from trtdist.serving.run_config import RunConfig
from trtdist.serving.slug import instance_prefix
from trtdist.serving.waiting import first_of, until_passed, within
from trtdist.supervisor.journal import Journal

__all__ = ["Pair", "Prover", "pairs_of", "prove"]

ANSWER_WITHIN_S = 0.5
AT_ONCE = 8
ROUTER, FRONT = "router", "front"
_FOR_EVER_S = 86_400.0


@dataclass(frozen=True)
class Pair:
    """The servers that one canary goes through; `context` is "" where one server does both."""

    context: str
    generation: str

    @property
    def servers(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(name for name in (self.context, self.generation) if name)


def pairs_of(plan: Plan) -> tuple[Pair, ...]:
    """As few canaries as it takes for every server to take part in one."""
    names = {
        role: [server.name for server in plan.servers if server.role == role] for role in ("context", "generation")
    }
    contexts, generations = names["context"], names["generation"]
    if not contexts:
        return tuple(Pair("", server.name) for server in plan.servers)
    most = max(len(contexts), len(generations))
    return tuple(Pair(contexts[i % len(contexts)], generations[i % len(generations)]) for i in range(most))


class Prover:
    """Sends canaries and tells what came of them."""

    def __init__(self, requester: Requester, plan: Plan, journal: Journal, front: Front | None = None) -> None:
        self._requester = requester
        self._may_miss = plan.launch == "per_server"
        self._front = front
        self._canary = plan.canary
        self._journal = journal
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def prove_all(self, pairs: Sequence[Pair]) -> None:
        """Returns when each pair has answered a canary, and one has come back over HTTP where that is spoken;
        RunFailedError when that cannot be told."""
        await asyncio.gather(*(self._until_passed(pair) for pair in pairs))
        if self._front is not None:
            await self._until_passed_over_http(self._front)
        if not self._journal.write(Ready(len(pairs))):
            raise RunFailedError(self._journal.broken)

    async def repeat(self, pairs: Sequence[Pair]) -> None:
        """Send each pair's canary every `interval` seconds, for ever; at an interval of 0, wait."""
        while True:
            await asyncio.sleep(self._canary.interval or _FOR_EVER_S)
            await asyncio.gather(*(self._try(pair) for pair in pairs if not self._missing(pair)))

    def _missing(self, pair: Pair) -> bool:
        """Whether a server is away that may be: one that is started alone is restarted, drained or gone without."""
        snapshot = self._requester.snapshot
        return self._may_miss and not all(snapshot.server(name) for name in pair.servers)

    async def attempt(self, context: str, generation: str) -> bool:
        """Send one canary through these servers; says whether it was answered."""
        return await self._try(Pair(context, generation))

    def proven(self, instance: Instance) -> bool:
        """Tell that a server has answered a canary, in which of its lives; whether that is told."""
        return self._journal.write(Rung(instance.server, "canary", instance.key))

    async def _until_passed(self, pair: Pair) -> None:
        await until_passed(lambda: self._try(pair))
        for name in pair.servers:
            self._journal.write(Rung(name, "canary"))

    async def _until_passed_over_http(self, front: Front) -> None:
        await until_passed(lambda: self._try_over_http(front))
        self._journal.write(Rung(FRONT, "canary"))

    async def _try_over_http(self, front: Front) -> bool:
        try:
            text = await within(self._canary.timeout, front.ask(self._canary))
        except (HttpError, OSError, asyncio.TimeoutError) as error:
            return self._failed(Pair("", FRONT), str(error) or f"no answer within {self._canary.timeout:g} s")
        return bool(text) or self._failed(Pair("", FRONT), "the answer is empty")

    async def _try(self, pair: Pair) -> bool:
        async with self._slots:
            clock = asyncio.get_running_loop().time
            begun = clock()
            try:
                text = await self._ask(pair)
            except TrtdistError as error:
                return self._failed(pair, str(error), error.server if isinstance(error, RequestError) else "")
            if not text:
                return self._failed(pair, "the answer is empty")
            self._journal.write(CanaryPassed(pair.context, pair.generation, text, clock() - begun))
            return True

    async def _ask(self, pair: Pair) -> str:
        canary = self._canary
        ask = Ask(
            sampling=Sampling(max_tokens=canary.max_tokens, temperature=0.0),
            prompt=canary.prompt,
            context=pair.context,
            generation=pair.generation,
            timeout=canary.timeout,
        )
        return "".join([answer.text async for answer in self._requester.stream(ask)])

    def _failed(self, pair: Pair, reason: str, server: str = "") -> bool:
        self._journal.write(CanaryFailed(pair.context, pair.generation, reason, server))
        self._journal.say(f"canary through {' and '.join(pair.servers)} failed: {reason}")
        return False


async def prove(config: RunConfig, plan: Plan, journal: Journal, stop: asyncio.Event) -> None:
    """Send canaries until all have passed, or for ever where the plan says so, or until `stop`."""
    cut_off = asyncio.Event()

    async def lost() -> str:
        await cut_off.wait()
        return f"the connection to NATS at {config.nats_url} was lost and did not come back: is it running?"

    async with _connected(config, cut_off) as nats:
        reason = await first_of(_prove(config, plan, journal, nats), asked(stop), lost())
    if reason:
        raise RunFailedError(f"the canary stops: {reason}")


async def _prove(config: RunConfig, plan: Plan, journal: Journal, nats: Client) -> str:
    async with (
        EtcdClient(config.etcd_endpoints, config.etcd_tls) as etcd,
        Watcher(etcd, instance_prefix(config.namespace)) as watcher,
    ):
        # Started again itself, it takes up its work where it was.
        proved = await newcomers.proved(etcd, config.namespace)
        if not proved:
            names = [server.name for server in plan.servers] + [ROUTER]
            await _all_registered(watcher, names, journal)
            await _all_answer(nats, watcher, names, journal)
        async with Requester.open(config, "canary") as requester:
            prover = Prover(requester, plan, journal, Front.of(config.run, config.http_url, plan))
            if not proved:
                await _prove_first(config, plan, etcd, watcher, prover)
            if journal.broken:
                raise RunFailedError(journal.broken)
            if plan.servers_return:
                proving = newcomers.Newcomers(etcd, watcher, prover.attempt, prover.proven)
                await first_of(proving.prove(), prover.repeat(pairs_of(plan)))
            if plan.canary.interval > 0:
                await prover.repeat(pairs_of(plan))
    return ""


async def _prove_first(config: RunConfig, plan: Plan, etcd: EtcdClient, watcher: Watcher, prover: Prover) -> None:
    """The canaries that make the run ready; whoever registers later has to be proved, also while they are under way."""
    if not plan.servers_return:
        await prover.prove_all(pairs_of(plan))
        return
    await newcomers.announce(etcd, config.namespace, ready=False)
    first = [instance.key for instance in watcher.snapshot.instances]
    # A server that is started again before READY gets no request over HTTP until it is proven.
    proving = newcomers.Newcomers(etcd, watcher, prover.attempt, prover.proven, first)
    await first_of(proving.prove(), prover.prove_all(pairs_of(plan)))
    await newcomers.announce(etcd, config.namespace, ready=True)


async def _all_registered(watcher: Watcher, names: Sequence[str], journal: Journal) -> None:
    async for snapshot in watcher.changes():
        missing = [name for name in names if snapshot.server(name) is None]
        if not missing:
            return
        journal.say(f"not registered yet: {', '.join(missing)}")


async def _all_answer(nats: Client, watcher: Watcher, names: Sequence[str], journal: Journal) -> None:
    """Ask all who listen on NATS, again and again, until each of these has answered."""
    missing = set(names)
    inbox = nats.new_inbox()
    answers = await nats.subscribe(inbox)
    while missing:
        await nats.publish("$SRV.PING", reply=inbox)
        for lease in await _heard(answers, len(missing)):
            found = _with_lease(watcher.snapshot, lease)
            if found is not None and found.server in missing:
                missing.discard(found.server)
                journal.write(Rung(found.server, "answering", found.key))
    await answers.unsubscribe()


async def _heard(answers: Subscription, most: int) -> list[str]:
    """The leases (hex) of the members that answer, until that many have or nothing comes for a moment."""
    found: list[str] = []
    with contextlib.suppress(errors.TimeoutError):
        while len(found) < most:
            lease = _lease_of((await answers.next_msg(ANSWER_WITHIN_S)).data)
            found += [lease] if lease else []
    return found


def _with_lease(snapshot: Snapshot, lease: str) -> Instance | None:
    """The server with this lease (hex), None when there is none."""
    return next((one for one in snapshot.instances if one.lease_hex == lease), None)


def _lease_of(data: bytes) -> str:
    try:
        return str(json.loads(data)["metadata"]["lease"])
    except (ValueError, KeyError, TypeError):
        return ""  # a service of somebody else


@contextlib.asynccontextmanager
async def _connected(config: RunConfig, cut_off: asyncio.Event) -> AsyncIterator[Client]:
    login = config.nats_user, config.nats_password
    nats = await connect(config.nats_url, *login, "canary", lost=cut_off.set, tls=config.nats_tls)
    try:
        yield nats
    finally:
        await disconnect(nats)


def _work(run_dir: Path) -> None:
    journal = Journal(RunDir(run_dir).event_file("canary"))
    config = RunConfig.load(run_dir)
    plan = config.plan()
    run_until_stopped(lambda stop: prove(config, plan, journal, stop))


if __name__ == "__main__":
    sys.exit(run_program(sys.argv[1:], _work))
