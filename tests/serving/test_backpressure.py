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

from tests.serving.deployment import Deployment, deployment, scripted_plan
from tests.serving.scripted import until
from tests.serving.scripted_engine import ScriptedEngine
from tests.serving.servers import EtcdServer, NatsServer
from trtdist.serving.attempt import WINDOW
from trtdist.serving.waiting import within

MAX_GROWTH_KB = 10_000
# An engine that has produced nothing for so long stands still.
STILL_S = 0.3

# Where the taker that pauses stands still, and the most that the engine may have produced for it by then: a window of
# chunks, of which some hold more than one output on a busy machine.
PAUSED_AT = 1000
MOST_PRODUCED = PAUSED_AT + 2 * WINDOW

# A requester as a process of its own: takes a whole answer, waits in the middle for a line of its input if it is to
# pause, and says what it got.
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

async def main(run, paused_at, prompt, pauses):
    config = RunConfig.load(Path(run))
    async with Requester.open(config, "a taker") as requester:
        count = 0
        async for answer in requester.stream(Ask(Sampling(), prompt, component="tensorrt-llm")):
            assert answer.token_ids == (count,)
            count += 1
            if count == int(paused_at):
                before = kilobytes("VmRSS")
                print("under way", flush=True)
                if pauses:
                    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        print(count, kilobytes("VmHWM") - before, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@contextlib.asynccontextmanager
async def taker(deployed: Deployment, chunks: int, pauses: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(deployed.run.path), str(PAUSED_AT), f"turns {chunks}", pauses),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def line(process: asyncio.subprocess.Process, seconds: float = 60) -> list[str]:
    assert process.stdout is not None
    return (await within(seconds, process.stdout.readline())).decode().split()


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
    assert await line(process) == ["under", "way"]
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    process.send_signal(signal.SIGCONT)


async def standing_still(engine: ScriptedEngine) -> int:
    """How much the engine had produced when it stopped to."""
    produced, since = engine.produced, time.monotonic()
    while time.monotonic() - since < STILL_S:
        await asyncio.sleep(0.02)
        if engine.produced != produced:
            produced, since = engine.produced, time.monotonic()
    return produced


async def crowd(deployed: Deployment, chunks: int, stop_s: float) -> list[list[str]]:
    """What four takers got, of whom one pauses while the others take all, and one of these is stopped for a while."""
    worker, _ = await deployed.worker("srv.0")
    async with contextlib.AsyncExitStack() as stack:
        pausing = await stack.enter_async_context(taker(deployed, chunks, "pauses"))
        assert await line(pausing) == ["under", "way"]
        await until(lambda: worker.engine.produced > PAUSED_AT)
        assert await standing_still(worker.engine) <= MOST_PRODUCED
        others = [await stack.enter_async_context(taker(deployed, chunks)) for _ in range(3)]
        await asyncio.gather(stopped(others[0], stop_s), *(line(one) for one in others[1:]))
        ends = [await line(one, 600) for one in others]
        assert worker.engine.produced <= MOST_PRODUCED + 3 * chunks
        assert pausing.stdin is not None
        pausing.stdin.write(b"go on\n")
        ends.append(await line(pausing, 600))
    assert worker.engine.produced == 4 * chunks
    return ends


def play(folder: Path, nats_server: NatsServer, etcd_server: EtcdServer, chunks: int, stop_s: float) -> None:
    async def main() -> None:
        async with deployment(folder, nats_server, etcd_server, scripted_plan(0, 1)) as deployed:
            ends = await crowd(deployed, chunks, stop_s)
        assert [int(count) for count, _ in ends] == [chunks] * 4
        assert max(int(grown) for _, grown in ends) < MAX_GROWTH_KB
        assert slow_consumers(nats_server) == 0

    asyncio.run(main())


def test_a_taker_that_stands_still_harms_nobody(
    tmp_path: Path, nats_server: NatsServer, etcd_server: EtcdServer
) -> None:
    play(tmp_path, nats_server, etcd_server, 3000, 0.5)


@pytest.mark.long
def test_six_hundred_thousand_chunks(tmp_path: Path, etcd_server: EtcdServer) -> None:
    with NatsServer(tmp_path / "nats") as server:
        play(tmp_path, server, etcd_server, 150_000, 10.0)
