"""Health of servers that are not ours, asked over real connections, and prompts to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.listening import listening
from tests.planning.topologies import section, topology
from trtdist.events import (
    CanaryPassed,
    Event,
    EventReader,
    EventWriter,
    Ready,
    Record,
    Restarting,
    Rung,
    StepStarted,
    TaskStarted,
    TaskUnwell,
    WrittenOff,
)
from trtdist.plan import Plan
from trtdist.planning import Target, plan
from trtdist.rundir import RunDir
from trtdist.services.envfile import write_env
from trtdist.serving import http_prover
from trtdist.serving.http1 import parse_url
from trtdist.serving.http_canary import Front
from trtdist.serving.http_prover import HttpProver, health_of, urls_of
from trtdist.serving.waiting import end_task, first_of, within
from trtdist.supervisor.journal import Journal
from trtdist.supervisor.lives import Lives

END_S = 30.0


@dataclass
class Scripted:
    """A server whose /health has the status `health`, and whose answers are `text`; `asked` are the prompts."""

    health: int = 200
    text: str = " Paris"
    asked: list[str] = field(default_factory=list)
    url: str = ""

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
        body = await reader.readexactly(length)
        status, answer = self.health, ""
        if head.startswith("POST"):
            self.asked.append(json.loads(body)["prompt"])
            status, answer = 200, json.dumps({"choices": [{"text": self.text}]})
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(answer)}\r\n\r\n{answer}".encode())
        await writer.drain()


@contextlib.asynccontextmanager
async def serving(*servers: Scripted) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for one in servers:
            one.url = f"http://127.0.0.1:{await stack.enter_async_context(listening(one.attend))}"
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


def in_its_first(name: str) -> str:
    """The life of what never dies."""
    return "first"


async def until(folder: Path, wanted: Callable[[object], bool]) -> object:
    """The first event of a folder that is wanted, once there is one."""

    async def found() -> object:
        while True:
            for record in EventReader(folder).poll():
                if wanted(record.event):
                    return record.event
            await asyncio.sleep(0.01)

    return await within(END_S, found())


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

        async with listening(silent) as port:
            assert await health_of(parse_url(f"http://127.0.0.1:{port}")) == "gives no answer within 0.1 s"

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
            front = Front(parse_url(servers[-1].url), "", found.model)
            prover = HttpProver(found, urls, front, Journal(tmp_path / "canary.jsonl"), in_its_first)
            told = EventReader(tmp_path)
            events: list[object] = []

            async def ready() -> str:
                while not any(isinstance(event, Ready) for event in events):
                    events.extend(record.event for record in told.poll())
                    await asyncio.sleep(0.01)
                return "ready"

            working = first_of(prover.prove({}), ready(), *(prover.watch(name) for name in urls))
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
            prover = HttpProver(found, urls, front, Journal(tmp_path / "canary.jsonl"), in_its_first)
            watching = asyncio.ensure_future(prover.watch("gen.1"))
            # While it loads, 503 is no sign of death.
            assert not (await asyncio.wait({watching}, timeout=0.6))[0]
            assert EventReader(tmp_path).poll() == []
            server.health = 200
            await until(tmp_path, lambda event: isinstance(event, Rung))
            server.health = 503
            told = await until(tmp_path, lambda event: isinstance(event, TaskUnwell))
            # Once is enough.
            assert not (await asyncio.wait({watching}, timeout=0.6))[0]
            await end_task(watching)
        assert isinstance(told, TaskUnwell) and (told.step, told.name) == ("gen.1", "gen.1.0")
        assert "its engine is dead: since 0.3 s it answers with status 503" in told.reason
        assert sum(isinstance(record.event, TaskUnwell) for record in EventReader(tmp_path).poll()) == 1

    asyncio.run(main())


def test_what_is_told_of_a_life_is_not_held_against_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prover that was held up may tell it when the supervisor has started the server again."""
    monkeypatch.setattr(http_prover, "DEAD_S", 0.3)
    monkeypatch.setattr(http_prover, "LOOK_S", 0.05)
    found = planned("trtllm-serve")
    lives = Lives(found.steps)
    canary, first = lives.begin("canary"), lives.begin("gen.1")
    monkeypatch.setenv("TRTDIST_LIFE", canary)

    async def main() -> list[Record]:
        server = Scripted()
        async with serving(server):
            url = parse_url(server.url)
            journal = Journal(tmp_path / "canary.jsonl")
            prover = HttpProver(found, {"gen.1": url}, Front(url, "", found.model), journal, lambda name: first)
            watching = asyncio.ensure_future(prover.watch("gen.1"))
            await until(tmp_path, lambda event: isinstance(event, Rung))
            server.health = 503
            await until(tmp_path, lambda event: isinstance(event, TaskUnwell))
            await end_task(watching)
        return EventReader(tmp_path).poll()

    told = asyncio.run(main())
    assert [type(record.event) for record in told] == [Rung, TaskUnwell]
    assert all(lives.concerns(record) for record in told)
    lives.begin("gen.1")
    assert not any(lives.concerns(record) for record in told)


@pytest.mark.parametrize("runtime", ["trtllm-serve", "dynamo"])
@pytest.mark.parametrize("name", ["gen.1", "router"])
def test_what_is_started_again_is_proven_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, name: str
) -> None:
    """Not before it is well in its new life, and once for each."""
    monkeypatch.setattr(http_prover, "LOOK_S", 0.05)
    lives: dict[str, str] = {}

    async def main() -> None:
        servers = [Scripted() for _ in range(4)]
        async with serving(*servers):
            names = ("ctx.0", "gen.0", "gen.1")
            urls = {name: parse_url(server.url) for name, server in zip(names, servers, strict=False)}
            found = planned(runtime)
            again = name if name in urls or runtime == "trtllm-serve" else "front"
            front = Front(parse_url(servers[-1].url), "", found.model)
            journal = Journal(tmp_path / "canary.jsonl")
            prover = HttpProver(found, urls, front, journal, lambda each: lives.get(each, "first"))
            working = asyncio.ensure_future(first_of(prover.prove({}), *(prover.watch(each) for each in urls)))
            await until(tmp_path, lambda event: isinstance(event, Ready))
            lives[again] = ""
            servers[2].health = 503
            asked = len(servers[-1].asked)
            assert not (await asyncio.wait({working}, timeout=0.3))[0]
            lives[again] = "second"
            if again in urls:
                # It is not well yet, so that nothing happens.
                assert not (await asyncio.wait({working}, timeout=0.3))[0]
                assert len(servers[-1].asked) == asked
                before = [record.event for record in EventReader(tmp_path).poll()]
                assert before.count(Rung(again, "canary", "first")) == 1
            servers[2].health = 200
            twice = await all_until(tmp_path, Rung(again, "canary", "second"))
            await end_task(working)
        others = [event.name for event in twice if isinstance(event, Rung) and event.rung == "canary"]
        assert sorted(others) == sorted([*names, "router" if runtime == "trtllm-serve" else "front", again])
        well = [event.detail for event in twice if isinstance(event, Rung) and event.rung == "answering"]
        assert well == [*["first"] * 3, *(["second"] if again in urls else [])]

    asyncio.run(main())


def test_a_prover_that_is_started_again_waits_for_nobody_who_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes back meanwhile is proven, and who was proven is not once more."""
    monkeypatch.setattr(http_prover, "LOOK_S", 0.05)
    run = RunDir(tmp_path)
    run.events.mkdir()
    names = ("ctx.0", "gen.0", "gen.1", "router")
    history: list[tuple[str, Event]] = [
        *(told for name in names for told in born(name, "a")),
        *(("canary", Rung(name, "canary", f"{name} a")) for name in names),
        ("canary", Ready(2)),
        ("supervisor", WrittenOff("gen.0", "gen.0.0 died")),
        ("supervisor", Restarting("gen.1", 1, 3, "gen.1.0 died")),
        *born("gen.1", "b"),
    ]
    with monkeypatch.context() as patched:
        for when, (writer, event) in enumerate(history, 1000):
            patched.setattr("trtdist.events._now", lambda when=when: float(when))
            if isinstance(event, StepStarted):
                patched.setenv("TRTDIST_LIFE", event.life)
            one = EventWriter(run.event_file(writer))
            one.write(event)
            one.close()

    async def main() -> None:
        servers = [Scripted() for _ in names]
        async with serving(*servers):
            ctx, gone, back, router = (server.url for server in servers)
            addresses = zip(names, (ctx, gone, back), strict=False)
            listed = " ".join(f"{name}={url.replace('http://', '')}" for name, url in addresses)
            write_env(run.resolved_env, {"TRTDIST_ENDPOINTS": listed, "TRTDIST_HTTP_URL": router})
            journal = Journal(run.event_file("canary"))
            work = http_prover.prove(run, planned("trtllm-serve"), journal, asyncio.Event())
            working = asyncio.ensure_future(work)
            events = await all_until(run.events, Rung("gen.1", "canary", "gen.1 b"))
            await end_task(working)
        assert len([event for event in events if isinstance(event, Rung) and event.rung == "canary"]) == len(names) + 1
        assert [len(server.asked) for server in servers] == [0, 0, 1, 2]

    asyncio.run(main())


def born(name: str, life: str) -> list[tuple[str, Event]]:
    """The first rank of a server has started, or what is none."""
    server = "" if name == "router" else name
    task = TaskStarted(name, f"{name}.0" if server else name, server, 0, "node1", 7, 7, 6, 6)
    return [("supervisor", StepStarted(name, 5, 5, f"{name} {life}")), (f"task.{name}", task)]


async def all_until(folder: Path, wanted: object) -> list[object]:
    """All events of a folder once one of them is there."""

    async def found() -> list[object]:
        while True:
            events: list[object] = [record.event for record in EventReader(folder).poll()]
            if wanted in events:
                return events
            await asyncio.sleep(0.01)

    return await within(END_S, found())


def test_a_server_that_users_ask_is_asked_where_they_do() -> None:
    alone = plan(topology(runtime="trtllm-serve", launch="per_server"), Target.LOCAL)
    env = {"TRTDIST_ENDPOINTS": "srv.0=0.0.0.0:8000", "TRTDIST_HTTP_URL": "http://10.0.0.1:8000"}
    assert {name: str(url) for name, url in urls_of(alone, env).items()} == {"srv.0": "http://10.0.0.1:8000"}
