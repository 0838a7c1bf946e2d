"""Instructions that a subscriber executes for a message that comes alone, which other load does not change.

    python benchmarks/nats_read.py

Chunks go one by one from this process through a NATS server to a subscriber like that of the front end, over TLS as a
run has it and in clear, with each event loop. The instructions are those of `valgrind --tool=cachegrind`, of many
messages less those of few; the kernel's are not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import uvloop
from nats.aio.msg import Msg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.plane.instructions import instructions
from benchmarks.plane.pretend import TEXT
from benchmarks.plane.services import services
from trtdist.serving.nats_connection import connect, connection, disconnect
from trtdist.serving.protocol import Chunk
from trtdist.serving.run_config import RunConfig

FEW, MANY = 500, 2500
# Long enough that each message is read by itself, under valgrind as well.
PAUSE_S = 0.001
CONNECT_S = 60.0
SUBJECT = "benchmark.read"
CHUNK = Chunk(0, 100, (100,), TEXT).encode()
LOOPS = {"uvloop": uvloop.run, "asyncio": asyncio.run}


async def receive(run_dir: Path, count: int) -> None:
    """Ask for so many messages and take them."""
    config = RunConfig.load(run_dir)
    login = config.nats_user, config.nats_password
    client = await connect(config.nats_url, *login, "subscriber", seconds=CONNECT_S, tls=config.nats_tls)
    left, whole = count, asyncio.Event()

    def take(subject: str, data: bytes, status: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            whole.set()

    inbox = client.new_inbox()
    await client.subscribe_directly(inbox, take, lambda: None)
    await client.publish(SUBJECT, b"%d" % count, inbox)
    await whole.wait()
    await disconnect(client)


async def per_message(run_dir: Path, loop: str) -> float:
    """Publish to two subscribers, one after the other, and return the instructions that a message cost them."""
    config = RunConfig.load(run_dir)
    login = config.nats_user, config.nats_password
    async with connection(config.nats_url, *login, "publisher", tls=config.nats_tls) as client:

        async def give(message: Msg) -> None:
            for _ in range(int(message.data)):
                await client.publish(message.reply, CHUNK)
                await asyncio.sleep(PAUSE_S)

        await client.subscribe(SUBJECT, cb=give)
        await client.flush()
        program = [__file__, "--run-dir", str(run_dir), "--loop", loop, "--count"]
        few, many = [await asyncio.to_thread(_instructions, [*program, str(count)]) for count in (FEW, MANY)]
    return (many - few) / (MANY - FEW)


def _instructions(program: list[str]) -> int:
    (counted,) = instructions(program)
    return counted


def main() -> None:
    """Count and print; or be a subscriber."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run-dir", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run_dir:
        LOOPS[options.loop](receive(options.run_dir, options.count))
        return
    for name, clear in (("TLS", False), ("clear", True)):
        with tempfile.TemporaryDirectory(prefix="trtdist-read.") as folder, services(Path(folder), clear=clear) as at:
            for loop in LOOPS:
                print(f"{name}, {loop}: {asyncio.run(per_message(at.run.path, loop)):,.0f} instructions per message")


if __name__ == "__main__":
    main()
