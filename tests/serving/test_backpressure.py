"""Many chunks to several requesters of which one stands still: nobody else is harmed, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.serving.scripted import Act, Stage, Worker, on_stage
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.serving.protocol import GenerateCall
from trtdist.serving.waiting import within

MAX_GROWTH_KB = 10_000

# A requester as a process of its own: takes a whole answer with a pause, and says what it got.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from trtdist.engines.base import Sampling
from trtdist.rundir import RunDir
from trtdist.serving.requester import Ask, Requester
from trtdist.serving.run_config import RunConfig

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

async def main(namespace, nats, user, password, etcd, pause):
    config = RunConfig(RunDir(Path(namespace)), nats, user, password, (etcd,))
    async with Requester.open(config, "a taker") as requester:
        count = 0
        async for answer in requester.stream(Ask(Sampling(), "x", component="tensorrt-llm")):
            assert answer.token_ids == (count,)
            count += 1
            if count == 1000:
                before = kilobytes("VmRSS")
                print("under way", flush=True)
                await asyncio.sleep(float(pause))
        print(count, kilobytes("VmHWM") - before, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.asynccontextmanager
async def taker(stage: Stage, pause: float = 0.0) -> AsyncIterator[asyncio.subprocess.Process]:
    config = stage.config
    where = (config.namespace, config.nats_url, config.nats_user, config.nats_password, config.etcd_endpoints[0])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *where, str(pause)), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def line(process: asyncio.subprocess.Process, seconds: float) -> list[str]:
    assert process.stdout is not None
    return (await within(seconds, process.stdout.readline())).decode().split()


def speaks(count: int) -> Act:
    async def act(worker: Worker, call: GenerateCall) -> None:
        worker.tasks.append(asyncio.ensure_future(worker.speak(call, count)))

    return act


def slow_consumers(server: NatsServer) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.monitor_port, timeout=5)
    try:
        connection.request("GET", "/varz")
        found = json.loads(connection.getresponse().read())["slow_consumers"]
        assert isinstance(found, int)
        return found
    finally:
        connection.close()


async def stopped(process: asyncio.subprocess.Process, seconds: float) -> None:
    """Stop a process in the middle of its answer and let it go on after a while."""
    assert await line(process, 60) == ["under", "way"]
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    process.send_signal(signal.SIGCONT)


async def crowd(stage: Stage, server: NatsServer, chunks: int, pause: float) -> None:
    """Four takers: one pauses, one is stopped, two go on; then all have everything and nobody was cut off."""
    await stage.worker("srv.0", speaks(chunks))
    async with contextlib.AsyncExitStack() as stack:
        pausing = await stack.enter_async_context(taker(stage, pause))
        others = [await stack.enter_async_context(taker(stage)) for _ in range(3)]
        begun = time.monotonic()
        await within(60 + pause, _all(stopped(others[0], pause), *(line(one, 60) for one in (pausing, *others[1:]))))
        ends = await within(600, _all(*(line(one, 600) for one in (pausing, *others))))
        assert time.monotonic() - begun > pause
    assert [int(count) for count, _ in ends] == [chunks] * 4
    assert max(int(grown) for _, grown in ends) < MAX_GROWTH_KB
    assert slow_consumers(server) == 0


async def _all(*work: object) -> list[list[str]]:
    return await asyncio.gather(*work)  # type: ignore[call-overload, no-any-return]


def play(nats_server: NatsServer, etcd_server: EtcdServer, namespace: str, chunks: int, pause: float) -> None:
    async def main() -> None:
        async with on_stage(nats_server, etcd_server, namespace) as stage:
            await crowd(stage, nats_server, chunks, pause)

    asyncio.run(main())


def test_a_taker_that_stands_still_harms_nobody(
    nats_server: NatsServer, etcd_server: EtcdServer, namespace: str
) -> None:
    play(nats_server, etcd_server, namespace, 3000, 0.5)


@pytest.mark.long
def test_six_hundred_thousand_chunks(tmp_path: Path, etcd_server: EtcdServer, namespace: str) -> None:
    with NatsServer(tmp_path) as server:
        play(server, etcd_server, namespace, 150_000, 10.0)
