"""From an engine to a client: what each way costs, side by side on one machine.

    python benchmarks/data_plane.py [--rounds N] [--share S] [--only NAME,...] [--dynamo-env DIR] [--no-dynamo] [--json]

The engine pretends: it computes nothing, so that the way is all there is. The load client is `trtdist bench`'s, in this
process. The ways take turns, so that whatever else the machine does meets all of them; figures are medians over the
rounds. All of it runs in a network namespace that has only the loopback interface, where the kernel allows that.

nats          this runtime: the router says who serves, the worker publishes straight to the client
nats-direct   the same without the router: what the router adds is the difference
relay         a router that relays each chunk over NATS, as the runtime that this one replaces does
raw-nats      a publisher and a subscriber, nothing else: the limit of the ways over NATS
bare-http     an asyncio server that streams bytes made before: the limit of the ways over HTTP
dynamo        NVIDIA Dynamo's front end and mocker from its wheels, as shipped
dynamo-nodelay  the same with TCP_NODELAY set by a preloaded shim
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.plane import dynamo
from benchmarks.plane.machine import Program, own_network, python
from benchmarks.plane.raw import raw_target
from benchmarks.plane.services import Services, free_ports, services
from trtdist.bench import workload
from trtdist.bench.lengths import Lengths
from trtdist.bench.load import Load
from trtdist.bench.record import Slo
from trtdist.bench.session import Step, measure
from trtdist.bench.targets import Endpoint, Target, http_target, run_target
from trtdist.bench.workload import Request
from trtdist.errors import TrtdistError
from trtdist.serving.run_config import RunConfig

PROMPT_TOKENS, OUTPUT_TOKENS = 104, 64
CONCURRENCY = {1: 200, 16: 800, 64: 1600}
LENGTHS = {16: 800, 256: 200, 2048: 40}
# The ways whose answers are also measured at these lengths.
LONG = ("nats", "relay", "raw-nats")
START_S = 60.0

Opening = Callable[[], contextlib.AbstractAsyncContextManager[Target]]


@dataclass(frozen=True)
class Way:
    """One way from an engine to the client: how it is asked, and its processes by what they do."""

    name: str
    open: Opening
    programs: dict[str, Program] = field(default_factory=dict)


def ways(stack: contextlib.ExitStack, at: Services, options: argparse.Namespace) -> Iterator[Way]:
    """All ways, with their programs started."""

    def start(name: str, argv: list[str]) -> Program:
        program = Program.start(argv, at.folder / f"{name}.log")
        stack.callback(program.stop)
        return program

    ours, relays = at.run_dir("plane-ours"), at.run_dir("plane-relay")
    worker = start("worker", python("benchmarks.plane.pretend", str(ours)))
    router = start("router", python("trtdist.serving.router", str(ours)))
    config, relay_config = RunConfig.load(ours), RunConfig.load(relays)
    yield Way("nats", lambda: run_target(config, "router", 60), {"worker": worker, "router": router})
    yield Way("nats-direct", lambda: run_target(config, "tensorrt-llm", 60), {"worker": worker})
    relay = start("relay", python("benchmarks.plane.relay", str(relays), str(ours)))
    yield Way("relay", lambda: run_target(relay_config, "tensorrt-llm", 60), {"worker": worker, "router": relay})
    publisher = start("publisher", python("benchmarks.plane.raw", str(ours)))
    yield Way("raw-nats", lambda: raw_target(config), {"worker": publisher})
    (port,) = free_ports(1)
    bare = start("bare", python("benchmarks.plane.bare_http", str(port)))
    yield Way("bare-http", lambda: _http(f"http://127.0.0.1:{port}/v1", "tiny"), {"front": bare})
    if not options.no_dynamo:
        for name, found in dynamo.start(stack, Path(options.dynamo_env), at.folder).items():
            yield Way(name, lambda url=found.url: _http(url, dynamo.MODEL), found.programs)  # type: ignore[misc]


@contextlib.asynccontextmanager
async def _http(url: str, model: str) -> AsyncIterator[Target]:
    extra = {"ignore_eos": True, "temperature": 0}
    async with http_target(Endpoint(url, "chat", model, extra=extra, timeout=60.0)) as target:
        yield target


def requests(output_tokens: int) -> Iterator[Request]:
    """Requests with prompts and answers of fixed lengths."""
    return workload.closed(Lengths("fixed", PROMPT_TOKENS), Lengths("fixed", output_tokens), 0)


async def ready(way: Way) -> None:
    """Return when a way gives an answer."""
    deadline = time.monotonic() + START_S
    while True:
        problem = "nothing came"
        try:
            async with way.open() as target:
                problem = (await target.ask(next(requests(2)))).error
        except TrtdistError as error:
            problem = str(error)
        dead = [program.ended for program in way.programs.values() if program.ended]
        if not problem and not dead:
            return
        if dead or time.monotonic() > deadline:
            raise SystemExit(f"{way.name} does not answer: {problem}; {'; '.join(dead)}")
        await asyncio.sleep(0.1)


async def one(way: Way, concurrency: int, count: int, output_tokens: int) -> dict[str, float]:
    """The figures of one load on a way; CPU is per request and per token, in us."""
    before = {role: program.cpu_seconds() for role, program in way.programs.items()}
    load = Load(concurrency, count, warm_up=concurrency)
    async with way.open() as target:
        point = await measure(
            target, Step("concurrency", concurrency, load, requests(output_tokens)), Slo(), 1, lambda run: None
        )
    found, sent = point.figures, count + concurrency
    row = {
        "requests_per_s": found.requests_per_s,
        "tokens_per_s": found.tokens_per_s,
        "pieces_per_s": found.pieces / found.seconds,
        "ttft_p50_ms": found.latencies.ttft.p50,
        "ttft_p99_ms": found.latencies.ttft.p99,
        "client_us_per_token": point.client.cpu_us_per_piece * found.pieces / found.output_tokens,
    }
    for role, program in way.programs.items():
        used = 1e6 * (program.cpu_seconds() - before[role])
        row[f"{role}_us_per_request"] = used / sent
        row[f"{role}_us_per_token"] = used / sent / output_tokens
        row[f"{role}_mb"] = program.resident_mb()
    return row


async def measure_all(found: list[Way], rounds: int, share: float) -> dict[str, Any]:
    """Medians over the rounds, by way and load, and the router's CPU by length of the answer."""
    for way in found:
        await ready(way)
    loads: dict[tuple[str, int], list[dict[str, float]]] = {}
    lengths: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(rounds):
        for way in found:
            for streams, most in CONCURRENCY.items():
                print(f"round {number + 1}: {way.name}, {streams} streams", file=sys.stderr, flush=True)
                row = await one(way, streams, max(streams, round(most * share)), OUTPUT_TOKENS)
                loads.setdefault((way.name, streams), []).append(row)
            for length, most in LENGTHS.items() if way.name in LONG else ():
                row = await one(way, 8, max(8, round(most * share)), length)
                lengths.setdefault((way.name, length), []).append(row)
    return {
        "machine": {"cores": os.cpu_count(), "rounds": rounds, "output_tokens": OUTPUT_TOKENS},
        "loads": _medians(loads, "streams"),
        "lengths": _medians(lengths, "output_tokens"),
    }


def _medians(rows: dict[tuple[str, int], list[dict[str, float]]], key: str) -> list[dict[str, Any]]:
    return [
        {"way": name, key: value, **{column: statistics.median(row[column] for row in each) for column in each[0]}}
        for (name, value), each in rows.items()
    ]


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    columns = ("requests_per_s", "tokens_per_s", "ttft_p50_ms", "ttft_p99_ms", "client_us_per_token")
    columns += ("worker_us_per_token", "router_us_per_request", "front_us_per_token", "front_mb", "router_mb")
    print(f"{'way':<16}{'streams':>8}" + "".join(f"{name.replace('_per_', '/'):>20}" for name in columns))
    for row in found["loads"]:
        cells = (f"{row[name]:.2f}" if name in row else "-" for name in columns)
        print(f"{row['way']:<16}{row['streams']:>8}" + "".join(f"{cell:>20}" for cell in cells))
    print(f"\n{'8 streams':<16}{'output tokens':>16}{'tokens/s':>14}{'router us/request':>20}")
    for row in found["lengths"]:
        router = f"{row['router_us_per_request']:.0f}" if "router_us_per_request" in row else "-"
        print(f"{row['way']:<16}{row['output_tokens']:>16}{row['tokens_per_s']:>14.0f}{router:>20}")
    rows = {(row["way"], row["streams"]): row for row in found["loads"]}
    for name, other in (("nats", "nats-direct"), ("nats", "relay")):
        if (name, 1) in rows and (other, 1) in rows:
            added = rows[name, 1]["ttft_p50_ms"] - rows[other, 1]["ttft_p50_ms"]
            print(f"first token at 1 stream, {name} less {other}: {added:+.2f} ms")
    for name, other in (("nats", "raw-nats"), ("nats", "relay"), ("dynamo-nodelay", "bare-http")):
        for streams in CONCURRENCY:
            if (name, streams) in rows and (other, streams) in rows:
                ratio = rows[name, streams]["tokens_per_s"] / rows[other, streams]["tokens_per_s"]
                print(f"tokens/s at {streams} streams, {name} over {other}: {ratio:.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the requests, for a quick look")
    parser.add_argument("--only", default="", help="names of ways, with commas between them")
    parser.add_argument("--dynamo-env", default=str(dynamo.ENVIRONMENT), help="made when it is not there")
    parser.add_argument("--no-dynamo", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    only = [name for name in options.only.split(",") if name]
    if only and not any(name.startswith("dynamo") for name in only):
        options.no_dynamo = True
    if not options.no_dynamo:
        problem = dynamo.prepare(Path(options.dynamo_env))
        if problem:
            print(f"without Dynamo: {problem}", file=sys.stderr)
            options.no_dynamo = True
    try:
        own_network()
    except OSError as error:
        # Dynamo listens on all interfaces, whatever it is told.
        print(f"{error}; without Dynamo then", file=sys.stderr)
        options.no_dynamo = True
    with tempfile.TemporaryDirectory(prefix="trtdist-plane.") as folder, contextlib.ExitStack() as stack:
        at = stack.enter_context(services(Path(folder)))
        found = [way for way in ways(stack, at, options) if not only or way.name in only]
        measured = asyncio.run(measure_all(found, options.rounds, options.share))
    if options.json:
        print(json.dumps(measured, indent=1))
    else:
        show(measured)


if __name__ == "__main__":
    main()
