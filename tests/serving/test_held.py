"""What servers hold of prompts, as they count it, as routers know it, and what routers make of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.deployment import Deployment, deployment, scripted_plan
from tests.serving.scripted import greedy
from tests.serving.scripted_engine import ScriptedEngine
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.serving.discovery import Change, Snapshot
from trtdist.serving.held import HeldBlocks, HeldBook, HeldPublisher
from trtdist.serving.instance import Instance
from trtdist.serving.policies import BLOCK_TOKENS, BYTES_PER_TOKEN, policy_named, prompt_of
from trtdist.serving.protocol import GenerateCall, Held, Route, RouteCall, decode_held, decode_route_call
from trtdist.serving.requester import Ask, Requester
from trtdist.serving.routing import Desk
from trtdist.serving.slug import CONTEXT, GENERATION, ROUTER, service_slug

CONTEXTS = tuple(Instance.of("ns", CONTEXT, "generate", 1 + n, f"ctx.{n}") for n in range(4))
SNAPSHOT = Snapshot((*CONTEXTS, Instance.of("ns", GENERATION, "generate", 9, "gen.0")))
BLOCK_TEXT = BLOCK_TOKENS * BYTES_PER_TOKEN


def desk() -> Desk:
    return Desk(["context", "generation"], policy_named("kv_prefix"), "n")


def chosen(routes: Desk, call: RouteCall, now: float = 0.0) -> str:
    route = routes.decide(call, SNAPSHOT, now)
    assert isinstance(route, Route) and route.context is not None
    return route.context.server


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 40)), max_size=30),
    st.integers(1, 300),
    st.sets(st.integers(0, 29)),
)
def test_a_router_that_hears_all_knows_what_is_held_and_one_that_misses_some_forgets(
    prompts: list[tuple[int, int, int]], most: int, lost: set[int]
) -> None:
    """Prompts of a kind, so many blocks, so many tokens in each."""
    server, hears_all, misses_some = HeldBlocks(most), HeldBook(), HeldBook()
    held: set[int] = set()
    for seq, (kind, count, each) in enumerate(prompts):
        blocks = [10 * kind + number for number in range(count)]
        stored, removed = server.read(blocks, each)
        assert not set(stored) & set(removed)
        held = (held | set(stored)) - set(removed)
        assert each * len(blocks) > most or held >= set(blocks)
        told = decode_held(Held("1", seq, stored, removed).encode())
        hears_all.take(told)
        if seq not in lost:
            misses_some.take(told)
    assert set(hears_all.blocks.get("1", ())) == held
    heard = [seq for seq in range(len(prompts)) if seq not in lost]
    if heard and lost & set(range(heard[0], heard[-1])):
        # It knows at most what it was told since the gap.
        last_gap = max(lost & set(range(heard[0], heard[-1])))
        since = {10 * kind + n for kind, count, _ in prompts[last_gap + 1 :] for n in range(count)}
        assert set(misses_some.blocks["1"]) <= since


def test_a_prompt_goes_where_its_beginning_is_held() -> None:
    routes, prompt = desk(), prompt_of("x" * (10 * BLOCK_TEXT), ())
    assert len(prompt.blocks) == 10
    call = RouteCall("r", tokens=prompt.tokens, blocks=prompt.blocks)
    routes.held(Held("3", 0, prompt.blocks[:8]))
    assert {chosen(routes, decode_route_call(call.encode())) for _ in range(3)} == {"ctx.2"}
    # Not when it is far behind, nor when it holds that no more, nor when it is gone.
    routes = desk()
    routes.held(Held("3", 0, prompt.blocks[:8]))
    routes.held(Held("3", 1, (), prompt.blocks[:1]))
    assert len({chosen(routes, call) for _ in range(4)}) == 4
    routes.held(Held("2", 0, prompt.blocks))
    routes.changed(Change((), (CONTEXTS[1],), Snapshot(SNAPSHOT.instances[2:])))
    assert len({chosen(routes, call) for _ in range(4)}) == 4


def test_work_is_spread_that_begins_alike_until_all_hold_it() -> None:
    routes, prompt = desk(), prompt_of("y" * (4 * BLOCK_TEXT) + "z" * 3 * BLOCK_TEXT, ())
    seen: Counter[str] = Counter()
    for number in range(400):
        server = chosen(routes, RouteCall(str(number), tokens=prompt.tokens, blocks=prompt.blocks[:4]), number)
        lease = next(one.lease_hex for one in CONTEXTS if one.server == server)
        routes.held(Held(lease, seen[server], prompt.blocks[:4]))
        seen[server] += 1
    assert max(seen.values()) <= 1.3 * 400 / len(CONTEXTS)


@given(st.text(min_size=1, max_size=20))
def test_a_session_stays_and_most_stay_when_a_server_goes(session: str) -> None:
    routes = desk()
    found = {chosen(routes, RouteCall("r", session=session)) for _ in range(5)}
    assert len(found) == 1
    others = tuple(one for one in SNAPSHOT.instances if one.server != "ctx.3")
    after = routes.decide(RouteCall("r", session=session), Snapshot(others), 0.0)
    assert isinstance(after, Route) and after.context is not None
    assert found == {"ctx.3"} or found == {after.context.server}


@given(st.text(max_size=3 * BLOCK_TEXT), st.text(max_size=10), st.text(max_size=10))
def test_texts_that_begin_alike_have_blocks_in_common(start: str, one: str, other: str) -> None:
    common = len(start.encode("utf-8", "surrogatepass")) // BLOCK_TEXT
    first, second = prompt_of(start + one, ()), prompt_of(start + other, ())
    assert first.blocks[:common] == second.blocks[:common] and len(first.blocks[:common]) == common
    assert prompt_of(start, (1,) * BLOCK_TOKENS + (2,)).blocks == prompt_of("", (1,) * BLOCK_TOKENS + (3,)).blocks


@pytest.mark.parametrize("contexts", [0, 3])
def test_live_prompts_that_begin_alike_go_to_one_server_and_sessions_stay(
    contexts: int, tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer
) -> None:
    role, generations = ("ctx", 1) if contexts else ("srv", 3)
    shared = "say " + "word " * BLOCK_TEXT

    async def asked(requester: Requester, prompt: str, session: str = "") -> None:
        async for _ in requester.stream(Ask(greedy(), prompt, session=session, timeout=60)):
            pass

    async def main() -> None:
        plan = scripted_plan(contexts, generations, "kv_prefix")
        async with deployment(tmp_path, nats_server, etcd_server, plan) as deployed:
            engines = await _all(deployed)
            async with Requester.open(deployed.config, "a test") as requester:
                for number in range(6):
                    await asked(requester, f"{shared}{number}")
                    # What a server tells reaches the router by itself, and may do so after the requester has all.
                    await _router_knows(deployed, requests=0, held_blocks=5)
                served = {name: len(engine.requests) for name, engine in engines.items() if name.startswith(role)}
                assert sorted(served.values()) == [0, 0, 6]
                for _ in range(5):
                    await asked(requester, "say", "a session")
                after = {
                    name: len(engine.requests) - served[name] for name, engine in engines.items() if name in served
                }
                assert sorted(after.values()) == [0, 0, 5]

    asyncio.run(main())


def test_live_short_prompts_are_read_by_the_generation_server_where_the_topology_says_so(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer
) -> None:
    async def main() -> None:
        made = scripted_plan(1, 1, router_direct_below=100)
        async with deployment(tmp_path, nats_server, etcd_server, made) as deployed:
            engines = await _all(deployed)
            async with Requester.open(deployed.config, "a test") as requester:
                for prompt in ("say", "say " + "word " * 100):
                    async for _ in requester.stream(Ask(greedy(), prompt, timeout=60)):
                        pass
            kinds = {name: [each.request_type for each in engine.requests] for name, engine in engines.items()}
            assert kinds == {"ctx.0": ["context_only"], "gen.0": ["context_and_generation", "generation_only"]}

    asyncio.run(main())


async def _router_knows(deployed: Deployment, **figures: int) -> None:
    """Return once the router tells these figures of itself."""
    subject = f"$SRV.STATS.{service_slug(deployed.config.namespace, ROUTER)}"
    end = asyncio.get_running_loop().time() + 60
    while True:
        told = json.loads((await deployed.nats.request(subject, b"", 30)).data)["endpoints"][0]["data"]
        if told == {**told, **figures}:
            return
        assert asyncio.get_running_loop().time() < end, told
        await asyncio.sleep(0.01)


async def _all(deployed: Deployment) -> dict[str, ScriptedEngine]:
    engines = {
        server.name: (await deployed.worker(server.name, reuse_tokens=100_000))[0].engine
        for server in deployed.plan.servers
    }
    # It knows all of them by the time that it is registered.
    await deployed.router()
    return engines


def test_a_server_tells_once_its_engine_knows_how_much_it_holds() -> None:
    told, room = [], [0]

    async def publish(subject: str, data: bytes) -> None:
        told.append(decode_held(data))

    async def main() -> None:
        publisher = HeldPublisher(publish, CONTEXTS[0], lambda: room[0])
        call = GenerateCall("r", 0, "inbox", 1, 10.0, greedy(), "x" * 2 * BLOCK_TEXT)
        await publisher.read(call, 2 * BLOCK_TOKENS)
        assert told == []
        room[0] = 2 * BLOCK_TOKENS
        await publisher.read(call, 2 * BLOCK_TOKENS)
        await publisher.read(call, 2 * BLOCK_TOKENS)

    asyncio.run(main())
    assert [(one.seq, len(one.stored), one.removed) for one in told] == [(0, 2, ())]
