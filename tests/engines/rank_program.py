"""What a rank of a real MPI run executes: a leader takes commands, one JSON line each, the others follow.

Usage: rank_program.py RUN_DIR [SERVER]     without SERVER, the world rank says which server this is
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from trtdist.engines.base import DisaggregatedParams, Engine, EngineConfig, EngineError, GenerateRequest, Sampling
from trtdist.plan import Plan, Rank, Server, from_json
from trtdist.rundir import write_atomic

__all__: list[str] = []

TICK_S = 0.002


class Ticker:
    """Measures how long the event loop was held up."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK_S)
            self.longest = max(self.longest, time.monotonic() - before - TICK_S)

    def take(self) -> float:
        longest, self.longest = self.longest, 0.0
        return longest


def request_of(raw: dict[str, Any]) -> GenerateRequest:
    where = raw.pop("disaggregated", None)
    if where is not None:
        where = DisaggregatedParams(tuple(where["first"]), where["number"], where["state"].encode("latin-1"))
    sampling = raw.pop("sampling")
    sampling["stop"] = tuple(sampling.get("stop", ()))
    return GenerateRequest(sampling=Sampling(**sampling), disaggregated=where, **raw)


async def outputs(engine: Engine, raw: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    try:
        async for output in engine.generate(request_of(raw)):
            made = output.disaggregated
            where = made and {
                "first": made.first_token_ids,
                "number": made.context_request_id,
                "state": made.opaque_state.decode("latin-1"),
            }
            found.append({**vars(output), "disaggregated": where})
    except EngineError as error:
        found.append({"error": str(error)})
    return found


async def first_of(engine: Engine, raw: dict[str, Any]) -> str:
    """The text of the first output of an answer that is then let go."""
    stream = engine.generate(request_of(raw))
    first = await stream.__anext__()
    await stream.aclose()  # type: ignore[attr-defined]
    return first.text


async def lead(engine: Engine, port_file: Path) -> None:
    await engine.start()
    ticker, done = Ticker(), asyncio.Event()
    ticking: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            command, raw = json.loads(line)
            if command == "generate":
                answer: Any = await outputs(engine, raw)
            elif command == "cancel":
                answer = await first_of(engine, raw)
            elif command == "reuse":
                answer = engine.reuse_tokens
            elif command == "tick":
                ticking.append(asyncio.ensure_future(ticker.run()))
                answer = None
            elif command == "lag":
                ticking.pop().cancel()
                answer = ticker.take()
            else:
                answer = None
                await engine.stop()
                done.set()
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**24)
    write_atomic(port_file, f"{server.sockets[0].getsockname()[1]} {os.getpid()}")
    died = asyncio.ensure_future(engine.died())
    await asyncio.wait({died, asyncio.ensure_future(done.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if died.done():
        raise EngineError(died.result())


def find(plan: Plan, server: str) -> tuple[Server, Rank]:
    number = int(os.environ["OMPI_COMM_WORLD_RANK"])
    if server:
        return plan.server(server), plan.server(server).ranks[number]
    return next((each, rank) for each in plan.servers for rank in each.ranks if rank.world_rank == number)


def main(run_dir: Path, name: str) -> None:
    plan = from_json((run_dir / "plan.json").read_text())
    server, rank = find(plan, name)
    os.environ.update(TRTDIST_SERVER=server.name, TRTDIST_RANK=str(rank.rank))
    devices = [each.gpu for each in server.ranks]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
    create = importlib.import_module(f"trtdist.engines.{plan.engine}").create
    engine: Engine = create(EngineConfig(plan, server, rank.rank, run_dir))
    if rank.leader:
        asyncio.run(lead(engine, run_dir / f"{server.name}.port"))
    else:
        write_atomic(run_dir / f"{server.name}.{rank.rank}.pid", str(os.getpid()))
        engine.follow()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
    except EngineError as error:
        print(f"rank_program: {error}", file=sys.stderr, flush=True)
        # What is left of MPI must not be waited for.
        os._exit(3)
