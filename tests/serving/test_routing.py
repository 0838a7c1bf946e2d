"""Who serves: the policies by their properties, the desk by what it is told, the router on real servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.deployment import deployment, scripted_plan
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.errors import InputError
from trtdist.events import Rung
from trtdist.serving.discovery import Change, Snapshot
from trtdist.serving.instance import Instance
from trtdist.serving.loads import FORGET_S, LoadBook
from trtdist.serving.policies import Load, Prompt, View, least_loaded, policy_named, round_robin
from trtdist.serving.protocol import Failure, Notice, Route, RouteCall, decode_route
from trtdist.serving.routing import Desk
from trtdist.serving.slug import component_of_role

ROLES = {"ctx": "context", "gen": "generation", "srv": "monolithic"}


def instance(server: str, lease: int) -> Instance:
    return Instance.of("ns", component_of_role(ROLES[server.split(".")[0]]), "generate", lease, server, "scripted")


def servers(kind: str, count: int, first_lease: int) -> tuple[Instance, ...]:
    return tuple(instance(f"{kind}.{index}", first_lease + index) for index in range(count))


SPLIT = Snapshot((*servers("ctx", 3, 0x10), *servers("gen", 2, 0x20)))


def desk(policy: str = "round_robin") -> Desk:
    return Desk(["context", "generation"], policy_named(policy), "router.control-1")


def decided(answer: Route | Failure) -> tuple[str, str]:
    assert isinstance(answer, Route), answer
    return answer.context.server if answer.context else "", answer.generation.server


@given(st.integers(1, 20), st.integers(0, 1000))
def test_round_robin_reaches_everybody_equally(count: int, start: int) -> None:
    there = servers("gen", count, 1)
    chosen = Counter(round_robin(there, View(start + turn)).server for turn in range(3 * count))
    assert set(chosen.values()) == {3} and len(chosen) == count


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), min_size=1, max_size=12), st.integers(0, 1000))
def test_least_loaded_has_the_least(given_loads: list[tuple[int, int]], turn: int) -> None:
    there = servers("gen", len(given_loads), 1)
    loads = {one.lease_hex: Load(*load) for one, load in zip(there, given_loads, strict=True)}
    chosen = loads[least_loaded(there, View(turn, loads)).lease_hex]
    assert (chosen.tokens, chosen.requests) == min((load.tokens, load.requests) for load in loads.values())


@given(st.integers(1, 20))
def test_least_loaded_takes_turns_among_equals(count: int) -> None:
    there = servers("gen", count, 1)
    assert {least_loaded(there, View(turn)).server for turn in range(count)} == {one.server for one in there}


@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=2, max_size=6),
    st.integers(0, 1000),
    st.sampled_from(["round_robin", "least_loaded", "kv_prefix"]),
)
def test_work_is_shared_by_weight(weights: list[float], start: int, policy: str) -> None:
    there = servers("gen", len(weights), 1)
    shares = {one.server: weight for one, weight in zip(there, weights, strict=True)}
    tokens: Counter[str] = Counter()
    for turn in range(200):
        # Nothing is finished meanwhile, so that the tokens are the work that each was given.
        loads = {one.lease_hex: Load(0, tokens[one.server]) for one in there}
        view = View(start + turn, loads, Prompt(100), weights=shares)
        tokens[policy_named(policy)(there, view).server] += 100
    fair = {server: 200 * 100 * weight / sum(weights) for server, weight in shares.items()}
    assert all(abs(tokens[server] - fair[server]) <= 400 + 0.05 * fair[server] for server in shares)


def test_short_prompts_go_to_a_generation_server_at_once() -> None:
    routes = Desk(["context", "generation"], round_robin, "n", direct_below=100)
    for tokens, pin, expected in ((99, "", ""), (100, "", "ctx.0"), (0, "", "ctx.1"), (99, "ctx.2", "ctx.2")):
        call = RouteCall("r", context=pin, tokens=tokens)
        assert decided(routes.decide(call, SPLIT, 0.0))[0] == expected
    refused = routes.decide(RouteCall("r", tokens=5), Snapshot(SPLIT.instances[:3]), 0.0)
    assert isinstance(refused, Failure) and "no generation server" in refused.message


@pytest.mark.parametrize(
    ("policy", "direct_below", "early"),
    [("round_robin", 0, True), ("round_robin", 100, False), ("least_loaded", 0, False), ("kv_prefix", 0, False)],
)
def test_a_route_may_be_asked_for_early_where_the_request_does_not_matter(
    policy: str, direct_below: int, early: bool
) -> None:
    routes = Desk(["context", "generation"], policy_named(policy), "n", direct_below=direct_below)
    route = routes.decide(RouteCall("r", tokens=200), SPLIT, 0.0)
    assert isinstance(route, Route) and route.early is early


def test_early_routes_take_their_turns() -> None:
    routes = desk()
    chosen = [decided(routes.decide(RouteCall("r", early=bool(turn % 2)), SPLIT, 0.0))[0] for turn in range(6)]
    assert chosen == ["ctx.0", "ctx.1", "ctx.2"] * 2


def test_policy_that_is_not_there() -> None:
    with pytest.raises(InputError, match="best is not there: use round_robin or least_loaded or kv_prefix"):
        policy_named("best")


def test_context_and_generation_servers_take_turns_on_their_own() -> None:
    routes = desk()
    found = [decided(routes.decide(RouteCall(str(turn)), SPLIT, 0.0)) for turn in range(6)]
    assert [context for context, _ in found] == ["ctx.0", "ctx.1", "ctx.2"] * 2
    assert [generation for _, generation in found] == ["gen.0", "gen.1"] * 3


@given(
    st.sets(st.sampled_from([one.lease_hex for one in SPLIT.instances])),
    st.sampled_from(["", "ctx.0", "ctx.2", "ctx.9", "gen.0"]),
    st.sampled_from(["", "gen.0", "gen.1", "gen.9", "ctx.0"]),
    st.integers(0, 9),
)
def test_pins_and_exclusions_are_kept(exclude: set[str], context: str, generation: str, attempt: int) -> None:
    call = RouteCall("r", attempt, tuple(exclude), context, generation)
    answer = desk().decide(call, SPLIT, 0.0)

    def possible(kind: str, pin: str) -> list[str]:
        names = [one.server for one in SPLIT.instances if one.lease_hex not in exclude and one.server.startswith(kind)]
        return [name for name in names if pin in ("", name)]

    assert answer.attempt == attempt
    if isinstance(answer, Failure):
        assert answer.code == "unavailable"
        assert not possible("ctx", context) or not possible("gen", generation)
    else:
        assert answer.request_id == "r" and answer.notify == "router.control-1"
        names = decided(answer)
        assert names[0] in possible("ctx", context) and names[1] in possible("gen", generation)


@pytest.mark.parametrize(
    ("call", "snapshot", "says"),
    [
        (RouteCall("r"), Snapshot(), "no context server is registered"),
        (RouteCall("r"), Snapshot(SPLIT.instances[:3]), "no generation server is registered"),
        (RouteCall("r", generation="gen.7"), SPLIT, "no generation server gen.7 is registered"),
        (RouteCall("r", exclude=("20", "21")), SPLIT, "no other generation server"),
        (RouteCall("r"), Snapshot((), "etcd is away"), "(etcd is away)"),
    ],
)
def test_what_is_missing_is_named(call: RouteCall, snapshot: Snapshot, says: str) -> None:
    answer = desk().decide(call, snapshot, 0.0)
    assert isinstance(answer, Failure) and answer.code == "unavailable" and says in answer.message


def test_monolithic_servers_do_everything() -> None:
    snapshot = Snapshot(servers("srv", 2, 0x30))
    routes = Desk(["monolithic"], round_robin, "n")
    assert decided(routes.decide(RouteCall("r", generation="srv.1"), snapshot, 0.0)) == ("", "srv.1")
    refused = routes.decide(RouteCall("r", context="ctx.0"), snapshot, 0.0)
    assert isinstance(refused, Failure) and "no context server ctx.0" in refused.message


def test_load_follows_the_notices() -> None:
    routes = desk("least_loaded")
    long = Notice("long", 0, "started", "20", prompt_tokens=1000)
    routes.note(long, 0.0)
    assert {decided(routes.decide(RouteCall(str(n)), SPLIT, 1.0))[1] for n in range(3)} == {"gen.1"}
    for n in range(3):
        routes.note(Notice(str(n), 0, "started", "21", prompt_tokens=400), 1.0)
    assert decided(routes.decide(RouteCall("4"), SPLIT, 2.0))[1] == "gen.0"
    routes.note(Notice("long", 0, "done", "20"), 3.0)
    routes.note(Notice("unknown", 0, "done", "20"), 3.0)
    assert decided(routes.decide(RouteCall("5"), SPLIT, 3.0))[1] == "gen.0"


def test_load_of_who_is_gone_is_forgotten() -> None:
    book = LoadBook()
    book.note(Notice("a", 0, "started", "20", prompt_tokens=5), 0.0)
    book.note(Notice("b", 0, "started", "21", prompt_tokens=6), 0.0)
    book.keep({"21"})
    assert dict(book.loads(1.0)) == {"21": Load(1, 6)}
    assert dict(book.loads(FORGET_S + 1)) == {}
    routes = desk("least_loaded")
    routes.note(Notice("a", 0, "started", "20", prompt_tokens=5), 0.0)
    routes.changed(Change((), (SPLIT.instances[3],), Snapshot(SPLIT.instances[4:])))
    assert decided(routes.decide(RouteCall("r"), SPLIT, 1.0))[1] == "gen.0"


def test_lost_notices_are_forgotten_where_there_is_no_choice() -> None:
    routes, alone = desk(), Snapshot((SPLIT.instances[0], SPLIT.instances[3]))
    routes.decide(RouteCall("lost"), alone, 0.0)
    assert len(routes._book._entries) == 2
    routes.decide(RouteCall("next"), alone, FORGET_S + 1)
    assert len(routes._book._entries) == 2
    routes.note(Notice("next", 0, "done", "20"), 2 * FORGET_S + 2)
    assert len(routes._book._entries) == 0


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("rst"), st.booleans(), st.integers(0, 9)), max_size=40)
)
def test_load_book_adds_up(notices: list[tuple[str, str, bool, int]]) -> None:
    book, expected = LoadBook(), {}
    for server, request, begins, tokens in notices:
        book.note(Notice(request, 0, "started" if begins else "done", server, tokens), 0.0)
        expected.pop((server, request), None)
        if begins:
            expected[server, request] = tokens
    sums = {
        server: Load(
            sum(key[0] == server for key in expected), sum(t for key, t in expected.items() if key[0] == server)
        )
        for server in {key[0] for key in expected}
    }
    assert dict(book.loads(0.0)) == sums


def test_router_on_the_wire(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        async with deployment(tmp_path, nats_server, etcd_server, scripted_plan(1, 2)) as deployed:
            running, router = await deployed.router()

            async def ask(call: RouteCall) -> Route | Failure:
                return decode_route((await deployed.nats.request(router.subject, call.encode(), 60)).data)

            assert isinstance(await ask(RouteCall("r")), Failure)
            assert b"bad_request" in (await deployed.nats.request(router.subject, b"{", 60)).data
            workers = [await deployed.worker(name) for name in ("ctx.0", "gen.0", "gen.1")]
            # Its own watch may be a moment behind ours.
            await until_routes_are(ask, {("ctx.0", "gen.0"), ("ctx.0", "gen.1")})
            await workers[2][0].end()
            await deployed.gone("gen.1")
            await until_routes_are(ask, {("ctx.0", "gen.0")})
            await running.end()
            await deployed.gone("router")
            rungs = [event for event in deployed.events() if isinstance(event, Rung) and event.name == "router"]
            assert [one.rung for one in rungs] == ["registered"]

    asyncio.run(main())


async def until_routes_are(
    ask: Callable[[RouteCall], Awaitable[Route | Failure]], wanted: set[tuple[str, str]]
) -> None:
    """Return once routes lead to these servers, in turn, and to no others."""
    end = asyncio.get_running_loop().time() + 60
    while True:
        routes = [await ask(RouteCall(str(turn))) for turn in range(4)]
        if not any(isinstance(one, Failure) for one in routes) and {decided(one) for one in routes} == wanted:
            return
        assert asyncio.get_running_loop().time() < end, routes
        await asyncio.sleep(0.01)
