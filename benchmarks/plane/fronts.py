"""This runtime over its HTTP front end: started with an engine that pretends, and measured within a window of time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.plane.machine import Program, python
from benchmarks.plane.services import Services, free_ports
from trtdist.bench.statistics import summary

__all__ = ["FRONTS", "Deployed", "deploy", "window"]

# Processes of the front end, by the name of the way.
FRONTS = {"http": 1, "http-2": 2, "http-4": 4}
WARM_UP_S = 1.0
START_S = 2.0


@dataclass(frozen=True)
class Deployed:
    """A running deployment with its front end: where it is asked, and its programs by what they do.

    `extra` is what bodies must have beside what any front end is asked.
    """

    url: str
    model: str
    port: int
    programs: dict[str, Program]
    extra: Mapping[str, Any] = field(default_factory=dict)


def deploy(
    stack: contextlib.ExitStack, at: Services, name: str, pace: str, processes: int = 1, servers: int = 1
) -> Deployed:
    """Start servers whose engine gives tokens at `pace`, a router, and a front end of so many processes."""
    (port,) = free_ports(1)
    run = at.run_dir(f"plane-{name}", servers, processes, port)

    def start(role: str, argv: list[str]) -> Program:
        program = Program.start(argv, at.folder / f"{name}-{role}.log")
        stack.callback(program.stop)
        return program

    worker = ["benchmarks.plane.pretend", str(run), "--pace", pace]
    programs = {
        f"worker{number}": start(f"worker{number}", python(*worker, "--server", str(number)))
        for number in range(servers)
    }
    programs["router"] = start("router", python("trtdist.serving.router", str(run)))
    programs["front"] = start("front", python("trtdist.serving.front", str(run)))
    return Deployed(f"http://127.0.0.1:{port}/v1", str(at.model), port, programs)


async def window(to: Deployed, clients: int, streams: int, seconds: float, spread: float) -> dict[str, float]:
    """The figures of `streams` streams by several clients; CPU in us, per chunk and per request."""
    begin = time.perf_counter() + START_S + WARM_UP_S
    argv = ["benchmarks.plane.http_load", to.url, to.model, "--streams", str(streams // clients)]
    argv += ["--begin", str(begin), "--end", str(begin + seconds), "--spread", str(spread)]
    argv += ["--extra", json.dumps(dict(to.extra))]
    running = [await _client(python(*argv)) for _ in range(clients)]
    await asyncio.sleep(begin - time.perf_counter())
    before = {role: program.cpu_seconds() for role, program in to.programs.items()}
    calls = to.programs["front"].system_calls()
    await asyncio.sleep(begin + seconds / 2 - time.perf_counter())
    split = connections(to.programs["front"].pids, to.port)
    await asyncio.sleep(begin + seconds - time.perf_counter())
    used = {role: program.cpu_seconds() - before[role] for role, program in to.programs.items()}
    reads, writes = (now - then for now, then in zip(to.programs["front"].system_calls(), calls))
    # On a busy machine the last ones are accepted late.
    split = max(split, connections(to.programs["front"].pids, to.port), key=sum)
    found = [await _result(one) for one in running]
    pieces, requests = (max(1, sum(each[name] for each in found)) for name in ("pieces", "requests"))
    workers = sum(value for role, value in used.items() if role.startswith("worker"))
    ttft, delays = (summary(value for each in found for value in each[name]) for name in ("ttft", "delays"))
    return {
        "streams": streams,
        "chunks_per_s": pieces / seconds,
        "requests_per_s": requests / seconds,
        "ttft_p50_ms": ttft.p50,
        "ttft_p99_ms": ttft.p99,
        "delay_p50_ms": delays.p50,
        "delay_p99_ms": delays.p99,
        "front_us_per_chunk": 1e6 * used["front"] / pieces,
        "front_cores": used["front"] / seconds,
        "front_reads_per_chunk": reads / pieces,
        "front_writes_per_chunk": writes / pieces,
        "front_mb": to.programs["front"].resident_mb(),
        "worker_us_per_chunk": 1e6 * workers / pieces,
        "router_us_per_request": 1e6 * used.get("router", 0.0) / requests,
        "smaller_share": min(split) / max(1, sum(split)),
    }


def connections(pids: Sequence[int], port: int) -> list[int]:
    """How many connections to a port each of some processes has that have any."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = {f"socket:[{line[9]}]" for line in lines if line[3] == "01" and line[1].endswith(f":{port:04X}")}
    counts = []
    for pid in pids:
        folder = Path(f"/proc/{pid}/fd")
        # A connection may end while it is looked at.
        with contextlib.suppress(FileNotFoundError):
            counts.append(sum(os.readlink(one) in established for one in folder.iterdir()))
    return [count for count in counts if count] or [0]


async def _client(argv: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)


async def _result(client: asyncio.subprocess.Process) -> dict[str, Any]:
    output, errors = await client.communicate()
    if client.returncode != 0:
        raise SystemExit(f"a client failed: {errors.decode()[-2000:]}")
    return dict(json.loads(output))
