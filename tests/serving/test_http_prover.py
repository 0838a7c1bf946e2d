"""Health of servers that are not ours, asked over real connections, and prompts to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.planning.topologies import section, topology
from trtdist.events import CanaryPassed, EventReader, Ready, Rung, TaskUnwell
from trtdist.plan import Plan
from trtdist.planning import Target, plan
from trtdist.serving import http_prover
from trtdist.serving.http1 import parse_url
from trtdist.serving.http_canary import Front
from trtdist.serving.http_prover import HttpProver, health_of, urls_of
from trtdist.serving.waiting import first_of
from trtdist.supervisor.journal import Journal

END_S = 30.0


@dataclass
class Scripted:
    """A server whose /health has the status `health`, and whose answers are `text`; `asked` are the prompts."""

    health: int = 200
    text: str = " Paris"
    asked: list[str] = field(default_factory=list)
    url: str = ""

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
            body = await reader.readexactly(length)
            status, answer = self.health, ""
            if head.startswith("POST"):
                self.asked.append(json.loads(body)["prompt"])
                status, answer = 200, json.dumps({"choices": [{"text": self.text}]})
            writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(answer)}\r\n\r\n{answer}".encode())
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def serving(*servers: Scripted) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for one in servers:
            listener = await stack.enter_async_context(await asyncio.start_server(one.attend, "127.0.0.1", 0))
            one.url = "http://127.0.0.1:{1}".format(*listener.sockets[0].getsockname())
        yield


def planned(runtime: str) -> Plan:
    given = topology(
        runtime=runtime,
        launch="per_server",
        context_servers=section(),
        generation_servers=section(2),
        oversubscribe=True,
    )
    return plan(given, Target.LOCAL)


@pytest.mark.parametrize("status", [200, 503, 500])
def test_health_is_a_status(status: int) -> None:
    async def main() -> None:
        server = Scripted(health=status)
        async with serving(server):
            problem = await health_of(parse_url(server.url))
        assert problem == ("" if status == 200 else f"answers with status {status}")

    asyncio.run(main())


def test_nobody_there_is_unwell_too() -> None:
    async def main() -> None:
        server = Scripted()
        async with serving(server):
            pass
        assert "cannot be reached" in await health_of(parse_url(server.url))

    asyncio.run(main())


def test_silence_is_unwell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_prover, "ANSWER_S", 0.1)

    async def main() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener:
            url = parse_url("http://127.0.0.1:{1}".format(*listener.sockets[0].getsockname()))
            assert await health_of(url) == "gives no answer within 0.1 s"

    asyncio.run(main())


@pytest.mark.parametrize(("runtime", "each"), [("trtllm-serve", 1), ("dynamo", 0)])
def test_every_server_and_the_door_are_asked(tmp_path: Path, runtime: str, each: int) -> None:
    async def main() -> None:
        servers = [Scripted() for _ in range(4)]
        async with serving(*servers):
            urls = {
                name: parse_url(server.url) for name, server in zip(("ctx.0", "gen.0", "gen.1"), servers, strict=False)
            }
            found = planned(runtime)
            prover = HttpProver(
                found, urls, Front(parse_url(servers[-1].url), "", found.model), Journal(tmp_path / "canary.jsonl")
            )
            told = EventReader(tmp_path)
            events: list[object] = []

            async def ready() -> str:
                while not any(isinstance(event, Ready) for event in events):
                    events.extend(record.event for record in told.poll())
                    await asyncio.sleep(0.01)
                return "ready"

            working = first_of(prover.prove(), ready(), *(prover.watch(name) for name in urls))
            assert await asyncio.wait_for(working, END_S) == "ready"
        assert [len(server.asked) for server in servers] == [each, each, each, 2]
        rungs = [event.name for event in events if isinstance(event, Rung) and event.rung == "canary"]
        assert rungs == ["ctx.0", "gen.0", "gen.1", "router" if each else "front"]
        assert all(event.text == " Paris" for event in events if isinstance(event, CanaryPassed))

    asyncio.run(main())


def test_a_server_that_was_up_and_is_unwell_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_prover, "DEAD_S", 0.3)
    monkeypatch.setattr(http_prover, "LOOK_S", 0.05)

    async def main() -> None:
        server = Scripted(health=503)
        found = planned("dynamo")
        async with serving(server):
            urls = {"gen.1": parse_url(server.url)}
            front = Front(parse_url(server.url), "", found.model)
            prover = HttpProver(found, urls, front, Journal(tmp_path / "canary.jsonl"))
            watching = asyncio.ensure_future(prover.watch("gen.1"))
            # While it loads, 503 is no sign of death.
            assert not (await asyncio.wait({watching}, timeout=0.6))[0]
            server.health = 200
            await asyncio.sleep(0)
            told = EventReader(tmp_path)
            while not any(isinstance(record.event, Rung) for record in told.poll()):
                await asyncio.sleep(0.01)
            server.health = 503
            reason = await asyncio.wait_for(watching, END_S)
        assert "its engine is dead: since 0.3 s it answers with status 503" in reason
        last = [record.event for record in EventReader(tmp_path).poll()][-1]
        assert isinstance(last, TaskUnwell) and (last.step, last.name) == ("gen.1", "gen.1.0")

    asyncio.run(main())


def test_a_server_that_users_ask_is_asked_where_they_do() -> None:
    alone = plan(topology(runtime="trtllm-serve", launch="per_server"), Target.LOCAL)
    env = {"TRTDIST_ENDPOINTS": "srv.0=0.0.0.0:8000", "TRTDIST_HTTP_URL": "http://10.0.0.1:8000"}
    assert {name: str(url) for name, url in urls_of(alone, env).items()} == {"srv.0": "http://10.0.0.1:8000"}
