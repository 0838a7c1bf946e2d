"""Measuring a real server over a real socket, also one that does wrong."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from tests.bench.endpoint import Scripted, scripted
from trtdist.bench import workload
from trtdist.bench.lengths import Lengths
from trtdist.bench.load import Load
from trtdist.bench.record import Reply, Slo
from trtdist.bench.result import Point
from trtdist.bench.session import Step, measure
from trtdist.bench.targets import Endpoint, http_target
from trtdist.bench.workload import Request
from trtdist.errors import InputError, RunFailedError, TrtdistError

TOKENS = 8


def requests() -> Iterator[Request]:
    return workload.closed(Lengths("fixed", 5), Lengths("fixed", TOKENS), 0)


async def measured(server: Scripted, kind: str, load: Load, made: Iterator[Request], api: str = "chat") -> Point:
    async with http_target(Endpoint(server.url, api, kind, timeout=60.0)) as target:
        return await measure(target, Step("concurrency", 3, load, made), Slo(), 2, lambda run: None)


async def one_reply(kind: str, timeout: float = 60.0) -> Reply:
    async with scripted() as server, http_target(Endpoint(server.url, "chat", kind, timeout=timeout)) as target:
        return await target.ask(next(requests()))


@pytest.mark.parametrize("kind", ["well", "bytewise"])
def test_a_closed_loop_keeps_its_number_of_requests_open(kind: str) -> None:
    async def work() -> None:
        async with scripted() as server:
            point = await measured(server, kind, Load(3, count=9, warm_up=3), requests())
            assert (point.figures.requests, point.figures.output_tokens) == (9, 9 * TOKENS)
            assert point.figures.pieces == 9 * TOKENS
            assert point.figures.prompt_tokens == 9 * 7
            assert (server.most_open, server.connections, len(server.asked)) == (3, 3, 12)
            assert server.asked[0]["messages"][0]["content"] == next(requests()).prompt
            assert server.asked[0]["stream_options"] == {"include_usage": True}

    asyncio.run(work())


def test_an_open_loop_sends_each_request_at_its_time() -> None:
    async def work() -> None:
        async with scripted() as server:
            made = workload.open_loop(100.0, Lengths("fixed", 5), Lengths("fixed", TOKENS), 0, evenly=True)
            point = await measured(server, "slow", Load(None, count=20), made)
            # An answer takes 85 ms, so several are open though nobody asked for it.
            assert server.most_open > 2
            assert point.figures.seconds > 0.19
            assert point.figures.latencies.ttft.min > 45
            assert point.figures.latencies.itl.p50 > 4

    asyncio.run(work())


def test_time_limits_a_load() -> None:
    async def work() -> None:
        async with scripted() as server:
            point = await measured(server, "slow", Load(2, seconds=0.3), requests())
            assert 2 <= point.figures.requests <= 10

    asyncio.run(work())


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("short", "4 tokens came, 8 were asked for"),
        ("gap", "the usage says 7 tokens and the stream had 8 pieces"),
        ("no_usage", "no usage"),
        ("cut", "closed in the middle"),
        ("no_done", r"without \[DONE\]"),
        ("busy", "status 429: come back later"),
        ("stray", "the engine failed"),
    ],
)
def test_nothing_is_reported_when_tokens_are_missing(kind: str, says: str) -> None:
    async def work() -> None:
        async with scripted() as server:
            await measured(server, kind, Load(2, count=4), requests())

    with pytest.raises(RunFailedError, match=f"4 of 4 answers cannot be trusted; 4 times: .*{says}"):
        asyncio.run(work())


def test_an_early_stop_is_no_missing_token_unless_the_end_was_to_be_ignored() -> None:
    async def work(exact: bool) -> int:
        async with scripted() as server:
            return (await measured(server, "stop", Load(1, count=2, exact=exact), requests())).figures.output_tokens

    assert asyncio.run(work(False)) == TOKENS
    with pytest.raises(RunFailedError, match="2 of 2"):
        asyncio.run(work(True))


def test_a_server_that_says_nothing_is_given_up() -> None:
    assert "no complete answer within 0.2 s" in asyncio.run(one_reply("silent", 0.2)).error


def test_completions_send_the_prompt_as_it_is() -> None:
    async def work() -> None:
        async with scripted() as server:
            await measured(server, "", Load(1, count=1), requests(), "completions")
            assert server.asked[0]["prompt"] == next(requests()).prompt
            assert server.asked[0]["model"] == "well"

    asyncio.run(work())


def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    async def work() -> None:
        async with scripted() as server, http_target(Endpoint(server.url, "chat", "well")) as target:
            replies = []
            for request in itertools.islice(requests(), 2):
                replies.append(await target.ask(request))
                for connection in tuple(target._client._all):
                    # As when the server's time for an idle connection is over, unseen until the next request.
                    connection._transport.abort()  # type: ignore[union-attr]
            assert [reply.error for reply in replies] == ["", ""]
            assert server.connections == 2

    asyncio.run(work())


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://host", "http://", "http://host:port/v1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    async def work() -> None:
        async with http_target(Endpoint(url)):
            pass

    with pytest.raises(InputError, match="http://HOST:PORT"):
        asyncio.run(work())


def test_nobody_there_is_told_in_a_sentence() -> None:
    async def work() -> None:
        async with http_target(Endpoint("http://127.0.0.1:1/v1")):
            pass

    with pytest.raises(TrtdistError, match=r"does not serve: 127\.0\.0\.1:1 cannot be reached"):
        asyncio.run(work())
