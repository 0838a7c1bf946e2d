"""The front end as a program of a run: its processes, its end, and the canary that goes through it."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.serving.deployment import Deployment, Process, deployment, fill_site, scripted_plan
from tests.serving.front import Front, Raw, fronting, raw_request
from tests.serving.scripted import until
from tests.serving.servers import EtcdServer, NatsServer, answers
from trtdist.errors import InputError
from trtdist.events import CanaryFailed, Ready, Rung
from trtdist.plan import Canary
from trtdist.services.authority import make_certificates
from trtdist.services.envfile import read_env
from trtdist.serving.canary import prove
from trtdist.serving.front.program import read_keys
from trtdist.supervisor.journal import Journal

CANARY = Canary("count 3", 3, 0.0, 10.0)


def port_of(deployed: Deployment) -> int:
    return int(read_env(deployed.run.resolved_env)["TRTDIST_HTTP_PORT"])


async def listening(deployed: Deployment, front: Process) -> None:
    """Return when the front end knows its servers."""
    port = port_of(deployed)
    loop = asyncio.get_running_loop()
    while not await loop.run_in_executor(None, answers, port, "/health", lambda found: True):
        assert front.process.poll() is None, front.output
        await asyncio.sleep(0.05)


def test_two_processes_share_a_port_and_end_together(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer
) -> None:
    async def main() -> None:
        async with deployment(
            tmp_path, nats_server, etcd_server, scripted_plan(0, 1, http={"processes": 2})
        ) as deployed:
            fill_site(deployed.run)
            await deployed.all()
            front = deployed.process("trtdist.serving.front")
            await listening(deployed, front)
            children = psutil.Process(front.process.pid).children()
            assert len(children) == 2
            await share(deployed, children)
            front.term()
            assert await front.exit_code() == 0, front.output
            assert not any(child.is_running() for child in children)

            front = deployed.process("trtdist.serving.front")
            await listening(deployed, front)
            psutil.Process(front.process.pid).children()[0].kill()
            assert await front.exit_code() == 1
            assert "a process of the front end ended" in front.output

    asyncio.run(main())


async def share(deployed: Deployment, children: list[psutil.Process]) -> None:
    """Each process has some of 60 connections, and each tells the counts of both."""
    port = port_of(deployed)
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
    for _, writer in opened:
        writer.write(raw_request("GET", "/live"))
    for reader, _ in opened:
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    has = [len([one for one in child.net_connections() if one.laddr.port == port and one.raddr]) for child in children]
    assert sum(has) == 60 and min(has) >= 10, has
    opened[0][1].write(raw_request("GET", "/metrics"))
    assert b'{endpoint="other",status="200"} 6' in await opened[0][0].readuntil(b"seconds_count")
    for _, writer in opened:
        writer.transport.abort()


def test_canary_comes_back_over_http(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        made = scripted_plan(0, 1, http={"host": "127.0.0.1"}, canary=CANARY)
        async with deployment(tmp_path, nats_server, etcd_server, made) as deployed:
            fill_site(deployed.run)
            (deployed.run.secrets / "http.keys").write_text("sk-one\nsk-two\n")
            await deployed.all()
            proving = asyncio.ensure_future(
                prove(deployed.config, made, Journal(deployed.run.event_file("canary")), asyncio.Event())
            )
            await until(lambda: any(isinstance(event, CanaryFailed) for event in deployed.events()))
            assert not any(isinstance(event, Ready) for event in deployed.events())
            front = deployed.process("trtdist.serving.front")
            await asyncio.wait_for(proving, 60)
            assert Rung("front", "canary") in deployed.events() and Ready(1) in deployed.events()
            front.term()
            assert await front.exit_code() == 0, front.output

    asyncio.run(main())


def test_https_with_a_certificate_of_ones_own(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    made_now = make_certificates(time.time())

    async def main() -> None:
        made = scripted_plan(0, 1, http={"host": "127.0.0.1"}, canary=CANARY)
        async with deployment(tmp_path, nats_server, etcd_server, made) as deployed:
            fill_site(deployed.run)
            (deployed.run.secrets / "http.pem").write_text(made_now["server.pem"])
            (deployed.run.secrets / "http.key").write_text(made_now["server.key"])
            resolved = deployed.run.resolved_env
            resolved.write_text(resolved.read_text().replace("TRTDIST_HTTP_URL=http:", "TRTDIST_HTTP_URL=https:"))
            await deployed.all()
            front = deployed.process("trtdist.serving.front")
            journal = Journal(deployed.run.event_file("canary"))
            secure = replace(deployed.config, http_url=deployed.config.http_url.replace("http:", "https:"))
            await asyncio.wait_for(prove(secure, made, journal, asyncio.Event()), 60)
            assert Rung("front", "canary") in deployed.events() and Ready(1) in deployed.events()
            # Who speaks plain HTTP, or trusts another authority, gets no answer; others go on.
            raw = Raw(*await asyncio.open_connection("127.0.0.1", port_of(deployed)))
            raw.writer.write(raw_request("GET", "/live"))
            assert b"HTTP" not in await asyncio.wait_for(raw.closed(), 60)
            raw.close()
            with pytest.raises(ssl.SSLError):
                stranger = ssl.create_default_context(cadata=make_certificates(time.time())["ca.pem"])
                await asyncio.open_connection("127.0.0.1", port_of(deployed), ssl=stranger)
            friend = ssl.create_default_context(cadata=made_now["ca.pem"])
            friend.check_hostname = False
            raw = Raw(*await asyncio.open_connection("127.0.0.1", port_of(deployed), ssl=friend))
            raw.writer.write(raw_request("GET", "/live"))
            assert (await raw.answer()).status == 200
            raw.writer.write(raw_request("GET", "/live", headers={"connection": "close"}))
            assert (await raw.answer()).status == 200
            assert await asyncio.wait_for(raw.closed(), 60) == b""
            raw.close()
            front.term()
            assert await front.exit_code() == 0, front.output

    asyncio.run(main())


def test_keys_are_needed_beyond_this_machine(tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        async with deployment(tmp_path, nats_server, etcd_server, scripted_plan(0, 1)) as deployed:
            assert read_keys(deployed.run, "127.0.0.1") == read_keys(deployed.run, "::1") == frozenset()
            with pytest.raises(InputError, match=r"http\.keys has no API keys"):
                read_keys(deployed.run, "0.0.0.0")
            (deployed.run.secrets / "http.keys").write_text("a\nb\n")
            assert len(read_keys(deployed.run, "0.0.0.0")) == 2

    asyncio.run(main())


async def many_requests(front: Front, connections: int, each: int) -> None:
    """Tiny requests, one after the other on each connection."""
    body = b'{"model": "tiny", "prompt": "count 1", "max_tokens": 1}'

    async def one() -> None:
        raw = await front.raw()
        for _ in range(each):
            raw.writer.write(raw_request("POST", "/v1/completions", body))
            assert (await raw.answer()).status == 200
        raw.close()

    await asyncio.gather(*(one() for _ in range(connections)))


@pytest.mark.parametrize("each", [20, pytest.param(2000, marks=pytest.mark.long)])
def test_many_tiny_requests_leave_nothing_behind(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer, each: int
) -> None:
    async def main() -> None:
        async with deployment(tmp_path, nats_server, etcd_server, scripted_plan(0, 1)) as deployed:
            await deployed.all()
            async with fronting(deployed) as front:
                await many_requests(front, 50, min(each, 40))
                before = psutil.Process().memory_info().rss
                await many_requests(front, 50, each)
                await until(lambda: len(front.connections) == 0)
                assert front.connections.buffered == 0 and front.requester._inbox.attempts == ()
                assert psutil.Process().memory_info().rss - before < 100_000_000

    asyncio.run(main())


@pytest.mark.long
def test_nats_that_restarts_under_a_stream_leaves_it_whole_or_an_error(tmp_path: Path, etcd_server: EtcdServer) -> None:
    async def main() -> None:
        with NatsServer(tmp_path / "nats") as nats:
            async with deployment(tmp_path, nats, etcd_server, scripted_plan(0, 1)) as deployed:
                await deployed.all()
                async with fronting(deployed) as front:
                    body = b'{"model": "tiny", "prompt": "count 30000", "stream": true}'
                    asked = asyncio.ensure_future(front.post("/v1/completions", body))
                    await until(lambda: front.metrics.text().count('first_token_seconds_bucket{le="+Inf"} 1') == 1)
                    nats.kill()
                    nats.start()
                    events = (await asyncio.wait_for(asked, 60)).body.decode().split("\n\n")
                    texts = [json.loads(event[6:])["choices"][0]["text"] for event in events if '"choices"' in event]
                    got = [int(word) for word in "".join(texts).split()]
                    assert got == [number % 10 for number in range(len(got))]
                    assert (events[-2] == "data: [DONE]" and len(got) == 30000) or '"error"' in events[-2]
                    assert (await front.post("/v1/completions", {"model": "tiny", "prompt": "count 1"})).status == 200

    asyncio.run(main())


@pytest.mark.long
def test_a_thousand_streams_lose_and_double_nothing(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer
) -> None:
    async def main() -> None:
        made = scripted_plan(0, 1, http={"port": "auto"})
        async with deployment(tmp_path, nats_server, etcd_server, made) as deployed:
            fill_site(deployed.run)
            programs = [
                deployed.process("trtdist.serving.worker", TRTDIST_SERVER="srv.0", TRTDIST_RANK="0"),
                deployed.process("trtdist.serving.router"),
                front := deployed.process("trtdist.serving.front"),
            ]
            await listening(deployed, front)
            memory = psutil.Process(front.process.pid).memory_info
            await for_a_while(port_of(deployed), made.model, 5)
            before = memory().rss
            await for_a_while(port_of(deployed), made.model, 60)
            assert memory().rss - before < 50_000_000
            for program in programs:
                program.term()
                assert await program.exit_code() == 0, program.output

    asyncio.run(main())


async def for_a_while(port: int, model: str, seconds: float) -> None:
    """A thousand clients that ask for one stream after the other, and look at every event."""
    end = time.monotonic() + seconds
    body = json.dumps({"model": model, "prompt": "count 200", "stream": True}).encode()
    words = [str(number % 10) for number in range(200)]

    async def one() -> None:
        raw = Raw(*await asyncio.open_connection("127.0.0.1", port))
        while time.monotonic() < end:
            raw.writer.write(raw_request("POST", "/v1/completions", body))
            found = await raw.answer()
            assert found.status == 200, found
            events = found.body.decode().split("\n\n")
            texts = [json.loads(event[6:])["choices"][0]["text"] for event in events if '"choices"' in event]
            assert "".join(texts).split() == words, events[-3:]
            assert events[-2] == "data: [DONE]"
        raw.close()

    await asyncio.gather(*(one() for _ in range(1000)))
