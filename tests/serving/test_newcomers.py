"""A server that comes once a run is ready gets requests only when a prompt has crossed it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Callable

import pytest

from tests.serving.deployment import deployment, scripted_plan
from tests.serving.scripted import greedy, until
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.errors import RunFailedError, TrtdistError
from trtdist.events import Ready
from trtdist.serving import newcomers
from trtdist.serving.canary import prove
from trtdist.serving.etcd import EtcdClient, EtcdUnavailableError
from trtdist.serving.instance import Instance
from trtdist.serving.requester import Ask, Requester, RequestError
from trtdist.supervisor.journal import Journal

PLAN = scripted_plan(1, 2)


async def answer(requester: Requester, generation: str = "", context: str = "") -> str:
    ask = Ask(greedy(3), prompt="count 3", generation=generation, context=context, timeout=60.0)
    return "".join([part.text async for part in requester.stream(ask)])


async def answered(requester: Requester, generation: str = "", context: str = "") -> str:
    """As `answer`, as soon as the router knows of the servers, which it hears of by itself."""
    end = asyncio.get_running_loop().time() + 60
    while True:
        try:
            return await answer(requester, generation, context)
        except RequestError:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("others", [True, False])
def test_it_is_proved_first(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer, others: bool) -> None:
    async def main() -> None:
        async with deployment(tmp_path, nats_server, etcd_server, PLAN) as deployed:
            config, namespace = deployed.config, deployed.config.namespace
            async with EtcdClient(config.etcd_endpoints) as etcd, Requester.open(config, "test") as requester:
                await deployed.router()
                known = []
                if others:
                    for name in ("ctx.0", "gen.0"):
                        first = (await deployed.worker(name))[1]
                        assert first.proven
                        known.append(first.key)
                await newcomers.announce(etcd, namespace, ready=True)
                assert await newcomers.proved(etcd, namespace)
                late = ["gen.1"] if others else ["ctx.0", "gen.1"]
                came = [(await deployed.worker(name))[1] for name in late]
                assert not any(instance.proven for instance in came)
                await until(lambda: requester.snapshot.server("gen.1") is not None, 60)
                if not others:
                    with pytest.raises(RequestError, match="no context server is registered"):
                        await answer(requester)
                assert await answered(requester, "gen.1", "ctx.0")
                tried: list[tuple[str, str]] = []

                async def attempt(context: str, generation: str) -> bool:
                    tried.append((context, generation))
                    if len(tried) == 1:
                        return False
                    try:
                        return bool(await answer(requester, generation, context))
                    except TrtdistError:
                        return False

                told: list[Instance] = []
                proving = asyncio.ensure_future(
                    newcomers.Newcomers(etcd, deployed.watcher, attempt, telling(told), known).prove()
                )
                await until(lambda: sorted(one.key for one in told) == sorted(one.key for one in came), 60)
                assert set(tried) == {("ctx.0", "gen.1")}
                await until(lambda: all(one.proven for one in requester.snapshot.instances), 60)
                assert await answered(requester)
                proving.cancel()
                await asyncio.wait({proving})

    asyncio.run(main())


def telling(told: list[Instance], room: bool = True) -> Callable[[Instance], bool]:
    """Tells of an instance; without room, only when it is asked to for the second time."""
    tries: list[str] = []

    def tell(instance: Instance) -> bool:
        tries.append(instance.key)
        done = room or tries.count(instance.key) > 1
        told.extend([instance] if done else [])
        return done

    return tell


def names(told: list[Instance]) -> list[str]:
    return [instance.server for instance in told]


class LosesAnswers(EtcdClient):
    """Etcd does what it is asked to, once, and nobody learns of it."""

    lost = 0

    async def replace(self, key: str, value: bytes, lease: int = 0) -> bool:
        done = await super().replace(key, value, lease)
        self.lost += 1
        if self.lost == 1:
            raise EtcdUnavailableError("the answer was lost")
        return done


def test_it_is_told_whatever_becomes_of_the_answer_and_of_the_program(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer
) -> None:
    async def passes(context: str, generation: str) -> bool:
        return True

    async def main() -> None:
        async with deployment(tmp_path, nats_server, etcd_server, PLAN) as deployed:
            config, told = deployed.config, list[Instance]()
            async with LosesAnswers(config.etcd_endpoints) as etcd:
                first = [(await deployed.worker(name))[1].key for name in ("ctx.0", "gen.0")]
                await newcomers.announce(etcd, config.namespace, ready=True)
                await deployed.worker("gen.1")
                given = (etcd, deployed.watcher, passes, telling(told, room=False))
                proving = asyncio.ensure_future(newcomers.Newcomers(*given, first).prove())
                await until(lambda: names(told) == ["gen.1"], 30)
                proving.cancel()
                await asyncio.wait({proving})
                # One that is started again does not know what the one before it has told.
                later = newcomers.Newcomers(*given)
                proving = asyncio.ensure_future(later.prove())
                await until(lambda: sorted(names(told[1:])) == ["ctx.0", "gen.0", "gen.1"], 30)
                for instance in deployed.watcher.snapshot.instances:
                    await etcd.delete(instance.key)
                await until(lambda: not later._tasks, 30)
                proving.cancel()
                await asyncio.wait({proving})

    asyncio.run(main())


def test_what_is_proven_has_the_same_key_and_subjects() -> None:
    new = Instance.from_dict(
        {**Instance.of("run", "tensorrt-llm", "generate", 7, "srv.0", "e").to_dict(), "proven": False}
    )
    assert not new.proven
    assert Instance.from_dict(new.to_dict()) == new
    assert new.key == Instance.of("run", "tensorrt-llm", "generate", 7, "srv.0", "e").key
    with pytest.raises(TrtdistError, match="proven"):
        Instance.from_dict({**new.to_dict(), "proven": "no"})


def test_nobody_is_proved_while_that_cannot_be_told(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer
) -> None:
    """Else one that is started again, once the disk has room, would not tell it either."""
    plan = replace(PLAN, steps=tuple(replace(step, restarts=3) for step in PLAN.steps))

    async def main() -> None:
        async with deployment(tmp_path, nats_server, etcd_server, plan) as deployed:
            await deployed.all()
            config, stop = deployed.config, asyncio.Event()
            with pytest.raises(RunFailedError, match="No space left on device; free some space"):
                await prove(config, plan, Journal(Path("/dev/full")), stop)
            proving = asyncio.ensure_future(prove(config, plan, Journal(deployed.run.event_file("canary")), stop))
            await until(lambda: Ready(2) in deployed.events(), 30)
            stop.set()
            await proving

    asyncio.run(main())
