"""Requester, router and servers together, with a scripted engine; and the canary that proves them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.serving.deployment import Deployment, deployment, scripted_plan
from tests.serving.scripted import greedy, until
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.events import RUNGS, CanaryFailed, CanaryPassed, Ready, Rung
from trtdist.plan import Canary
from trtdist.serving.canary import Pair, pairs_of, prove
from trtdist.serving.requester import Ask, Requester
from trtdist.supervisor.journal import Journal

CANARY = Canary("count 3", 3, 0.0, 10.0)


async def answered(requester: Requester, ask: Ask) -> str:
    return "".join([answer.text async for answer in requester.stream(ask)])


async def prove_once(deployed: Deployment) -> None:
    await prove(deployed.config, deployed.plan, Journal(deployed.run.event_file("canary")), asyncio.Event())


@pytest.mark.parametrize("policy", ["round_robin", "least_loaded"])
def test_prompts_cross_the_whole_path(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer, policy: str
) -> None:
    async def main() -> None:
        async with deployment(tmp_path, nats_server, etcd_server, scripted_plan(2, 2, policy)) as deployed:
            running = await deployed.all()
            async with Requester.open(deployed.config, "a test") as requester:
                asks = [Ask(greedy(), f"count {count}") for count in range(1, 30)]
                texts = await asyncio.gather(*(answered(requester, ask) for ask in asks))
                assert [len(text.split()) for text in texts] == list(range(1, 30))
                pinned = Ask(greedy(), "count 2", context="ctx.1", generation="gen.0")
                assert await answered(requester, pinned) == "0 1 "
            assert running["ctx.1"].engine.requests[-1].prompt == "count 2"
            assert running["gen.0"].engine.requests[-1].prompt == "count 2"
            for name in ("ctx.0", "ctx.1", "gen.0", "gen.1"):
                assert len(running[name].engine.requests) > 5

    asyncio.run(main())


def test_requester_that_goes_away_frees_everything(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer
) -> None:
    async def main() -> None:
        async with deployment(tmp_path, nats_server, etcd_server, scripted_plan(1, 1)) as deployed:
            running = await deployed.all()
            async with Requester.open(deployed.config, "a test") as requester:
                stream = requester.stream(Ask(greedy(), "count 1000000"))
                assert (await stream.__anext__()).text == "0 "
                await stream.aclose()  # type: ignore[attr-defined]
                await until(lambda: len(running["gen.0"].engine.ended) == 1)
                await until(lambda: running["ctx.0"].engine.released == [101])
            assert running["gen.0"].engine.produced < 5000

    asyncio.run(main())


def test_slow_reader_harms_nobody(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        async with deployment(tmp_path, nats_server, etcd_server, scripted_plan(0, 1)) as deployed:
            await deployed.all()
            async with Requester.open(deployed.config, "a test") as requester:
                slow = requester.stream(Ask(greedy(), "count 5000"))
                first = await slow.__anext__()
                assert len((await answered(requester, Ask(greedy(), "count 5000"))).split()) == 5000
                rest = [number async for answer in slow for number in answer.token_ids]
                assert [*first.token_ids, *rest] == list(range(5000))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("contexts", "generations", "expected"),
    [
        (0, 2, [Pair("", "srv.0"), Pair("", "srv.1")]),
        (1, 2, [Pair("ctx.0", "gen.0"), Pair("ctx.0", "gen.1")]),
        (3, 2, [Pair("ctx.0", "gen.0"), Pair("ctx.1", "gen.1"), Pair("ctx.2", "gen.0")]),
    ],
)
def test_canaries_reach_every_server(contexts: int, generations: int, expected: list[Pair]) -> None:
    plan = scripted_plan(contexts, generations)
    assert list(pairs_of(plan)) == expected
    assert {name for pair in expected for name in pair.servers} == {server.name for server in plan.servers}


def test_canary_climbs_the_ladder_of_all(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        plan = scripted_plan(1, 2, canary=CANARY)
        async with deployment(tmp_path, nats_server, etcd_server, plan) as deployed:
            proving = asyncio.ensure_future(prove_once(deployed))
            await deployed.all()
            await proving
            events = deployed.events()
            assert events[-1] == Ready(2)
            passed = [event for event in events if isinstance(event, CanaryPassed)]
            assert {(one.context, one.generation, one.text) for one in passed} == {
                ("ctx.0", "gen.0", "0 1 2 "),
                ("ctx.0", "gen.1", "0 1 2 "),
            }
            for name in ("ctx.0", "gen.0", "gen.1"):
                climbed = [event.rung for event in events if isinstance(event, Rung) and event.name == name]
                assert list(dict.fromkeys(climbed)) == list(RUNGS[3:])
            router = [event for event in events if isinstance(event, Rung) and event.name == "router"]
            # Which instance it was, so that it is not taken for one that is started again.
            assert {event.detail for event in router if event.rung == "answering"} == {
                event.detail for event in router if event.rung == "registered"
            }
            assert all(event.detail for event in router if event.rung == "answering")

    asyncio.run(main())


def test_the_rung_of_a_server_that_comes_back_carries_its_instance(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer
) -> None:
    async def main() -> None:
        made = scripted_plan(0, 2, canary=CANARY)
        steps = tuple(replace(step, restarts=1) if step.kind == "workers" else step for step in made.steps)
        async with deployment(tmp_path, nats_server, etcd_server, replace(made, steps=steps)) as deployed:
            running = await deployed.all()
            stop = asyncio.Event()
            journal = Journal(deployed.run.event_file("canary"))
            proving = asyncio.ensure_future(prove(deployed.config, deployed.config.plan(), journal, stop))
            await until(lambda: Ready(2) in deployed.events(), 60)
            await running["srv.1"].end()
            _, again = await deployed.worker("srv.1")
            await until(lambda: Rung("srv.1", "canary", again.key) in deployed.events(), 60)
            stop.set()
            await proving

    asyncio.run(main())


def test_failing_canary_is_told_and_sent_again(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        plan = scripted_plan(0, 1, canary=Canary("fail", 3, 0.0, 10.0))
        async with deployment(tmp_path, nats_server, etcd_server, plan) as deployed:
            await deployed.all()
            stop = asyncio.Event()
            journal = Journal(deployed.run.event_file("canary"))
            proving = asyncio.ensure_future(prove(deployed.config, plan, journal, stop))
            failures: list[CanaryFailed] = []
            while len(failures) < 2:
                await asyncio.sleep(0.02)
                failures = [event for event in deployed.events() if isinstance(event, CanaryFailed)]
            stop.set()
            await proving
            assert failures[0].generation == "srv.0" and "this engine fails" in failures[0].reason
            assert not any(isinstance(event, Ready) for event in deployed.events())

    asyncio.run(main())
    assert "canary through srv.0 failed" in capfd.readouterr().err


def test_canary_on_an_interval(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        plan = scripted_plan(0, 2, canary=Canary("count 1", 1, 0.05, 60.0))
        async with deployment(tmp_path, nats_server, etcd_server, plan) as deployed:
            running = await deployed.all()
            stop = asyncio.Event()
            journal = Journal(deployed.run.event_file("canary"))
            proving = asyncio.ensure_future(prove(deployed.config, plan, journal, stop))
            while sum(isinstance(event, CanaryPassed) for event in deployed.events()) < 6:
                await asyncio.sleep(0.02)
            await running["srv.1"].end()
            while not any(isinstance(event, CanaryFailed) for event in deployed.events()):
                await asyncio.sleep(0.02)
            stop.set()
            await proving
            failed = {event.generation for event in deployed.events() if isinstance(event, CanaryFailed)}
            assert failed == {"srv.1"} and sum(isinstance(event, Ready) for event in deployed.events()) == 1

    asyncio.run(main())
