"""From an engine to a client: what each way costs, side by side on one machine.

    python benchmarks/data_plane.py [--rounds N] [--share S] [--ways NAME,...] [--dynamo-env DIR] [--no-dynamo]
                                    [--json FILE] [--plots DIR]

The engine pretends: it computes nothing, so that the way is all there is. The load client is `trtdist bench`'s, in this
process. The ways take turns, so that whatever else the machine does meets all of them; figures are medians over the
rounds. All of it runs in a network namespace that has only the loopback interface, where the kernel allows that.
NATS and etcd are configured as those of a run are, and all that speaks to them, the limit over NATS as well, does so by
mutual TLS with the run's certificates. Dynamo's programs speak to each other in clear, as shipped.

nats          this runtime: the router says who serves, the worker publishes straight to the client
nats-direct   the same without the router: what the router adds is the difference
http          this runtime over its HTTP front end: chats with a template, each token a chunk of its own
http-2, -4    the same with two and four processes of the front end
relay         a router that relays each chunk over NATS, as the runtime that this one replaces does
raw-nats      a publisher and a subscriber, nothing else: the limit of the ways over NATS
raw-nats-clear  the same without TLS
bare-http     an asyncio server that streams bytes made before: the limit of the ways over HTTP
dynamo        NVIDIA Dynamo's front end and mocker from its wheels, as shipped
dynamo-nodelay  the same with TCP_NODELAY set by a preloaded shim

For those over HTTP there is more. `paced` is an engine that gives each of 64 streams a token every 5.7 ms, and the time
of each chunk from it to the client. `many` is six servers and four processes of clients, and what several processes of
the front end do that one does not: with 256 streams, whatever their number, and with 128 streams for each of them. The
former asks what a given load costs, the latter is how scaling is measured, since a process with more streams finds more
chunks with each read and needs fewer system calls for each. `--json` also writes everything to a file, `--plots` as SVG
files.
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
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.plane import dynamo, figures
from benchmarks.plane.fronts import FRONTS, Deployed, deploy, window
from benchmarks.plane.machine import Program, own_network, python
from benchmarks.plane.pretend import TURN
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
OVER_NATS, RAW, DYNAMO = ("nats", "nats-direct", "relay"), ("raw-nats", "raw-nats-clear"), ("dynamo", "dynamo-nodelay")
WAYS = (*OVER_NATS, *RAW, *FRONTS, "bare-http", *DYNAMO)
PACE_MS, PACED_STREAMS = 5.7, 64
SERVERS, CLIENTS, MANY_STREAMS, STREAMS_EACH = 6, 4, 256, 128
WINDOW_S = 4.0
# Else Dynamo's mocker ends answers early.
IGNORE_EOS = {"ignore_eos": True}

Opening = Callable[[], contextlib.AbstractAsyncContextManager[Target]]


@dataclass(frozen=True)
class Way:
    """One way from an engine to the client: how it is asked, and its processes by what they do."""

    name: str
    open: Opening
    programs: dict[str, Program] = field(default_factory=dict)


def ways(stack: contextlib.ExitStack, at: Services, wanted: Sequence[str], dynamo_env: Path) -> Iterator[Way]:
    """Those that are wanted, with the programs that they need started, and no others."""

    def start(name: str, argv: list[str]) -> Program:
        program = Program.start(argv, at.folder / f"{name}.log")
        stack.callback(program.stop)
        return program

    yield from _over_nats(start, at, [name for name in OVER_NATS if name in wanted])
    for name in RAW:
        if name in wanted:
            on = at if name == "raw-nats" else stack.enter_context(services(at.folder / "clear", clear=True))
            raw = on.run_dir(f"plane-{name}")
            programs = {"worker": start(name, python("benchmarks.plane.raw", str(raw))), "nats": on.nats}
            yield Way(name, lambda to=raw: raw_target(RunConfig.load(to)), programs)  # type: ignore[misc]
    for name, processes in FRONTS.items():
        if name in wanted:
            front = deploy(stack, at, name, TURN, processes)
            yield Way(name, lambda to=front: _http(to.url, to.model), {**_by_role(front), "nats": at.nats})  # type: ignore[misc]
    if "bare-http" in wanted:
        (port,) = free_ports(1)
        bare = start("bare", python("benchmarks.plane.bare_http", str(port)))
        yield Way("bare-http", lambda: _http(f"http://127.0.0.1:{port}/v1", "tiny"), {"front": bare})
    if peers := [name for name in DYNAMO if name in wanted]:
        for name, found in dynamo.start(stack, peers, dynamo_env, at.folder / "dynamo").items():
            yield Way(name, lambda url=found.url: _http(url, dynamo.MODEL, **IGNORE_EOS), found.programs)  # type: ignore[misc]


def _over_nats(start: Callable[[str, list[str]], Program], at: Services, wanted: Sequence[str]) -> Iterator[Way]:
    """Those that ask one and the same worker."""
    if not wanted:
        return
    ours = at.run_dir("plane-ours")
    config = RunConfig.load(ours)
    served = {"worker": start("worker", python("benchmarks.plane.pretend", str(ours))), "nats": at.nats}
    if "nats" in wanted:
        router = start("router", python("trtdist.serving.router", str(ours)))
        yield Way("nats", lambda: run_target(config, "router", 60), {**served, "router": router})
    if "nats-direct" in wanted:
        yield Way("nats-direct", lambda: run_target(config, "tensorrt-llm", 60), served)
    if "relay" in wanted:
        relays = at.run_dir("plane-relay")
        relay = start("relay", python("benchmarks.plane.relay", str(relays), str(ours)))
        relay_config = RunConfig.load(relays)
        yield Way("relay", lambda: run_target(relay_config, "tensorrt-llm", 60), {**served, "router": relay})


def _by_role(front: Deployed) -> dict[str, Program]:
    return {"worker" if role.startswith("worker") else role: program for role, program in front.programs.items()}


@contextlib.asynccontextmanager
async def _http(url: str, model: str, **extra: Any) -> AsyncIterator[Target]:
    asked = {"temperature": 0, **extra}
    async with http_target(Endpoint(url, "chat", model, extra=asked, timeout=60.0)) as target:
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


@contextlib.contextmanager
def fronts(at: Services, kind: str, names: list[str], dynamo_env: Path) -> Iterator[dict[str, Deployed]]:
    """The deployments of a part that is only about front ends, while in `with`."""
    with contextlib.ExitStack() as stack:
        paced, servers, speed = (str(PACE_MS), 1, 1) if kind == "paced" else (TURN, SERVERS, 1000000)
        ours, peers = ([name for name in names if (name in FRONTS) is own] for own in (True, False))
        there = {name: deploy(stack, at, f"{name}-{kind}", paced, FRONTS[name], servers) for name in ours}
        if peers:
            for name, found in dynamo.start(stack, peers, dynamo_env, at.folder / f"dynamo-{kind}", speed).items():
                there[name] = Deployed(found.url, dynamo.MODEL, found.port, found.programs, IGNORE_EOS)
        yield there


async def measure_fronts(kind: str, found: dict[str, Deployed], rounds: int, share: float) -> list[dict[str, Any]]:
    """Medians over the rounds of what a window of time shows, by way and number of streams."""
    for name, to in found.items():
        await ready(Way(name, lambda to=to: _http(to.url, to.model, **to.extra), to.programs))  # type: ignore[misc]
    clients, spread = (1, PACE_MS * 64 / 1000) if kind == "paced" else (CLIENTS, 0.2)
    rows: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(rounds):
        for name, to in found.items():
            for streams in [PACED_STREAMS] if kind == "paced" else _many(name):
                print(f"round {number + 1}: {name}, {streams} streams, {kind}", file=sys.stderr, flush=True)
                row = await window(to, clients, streams, max(1.0, WINDOW_S * share), spread)
                rows.setdefault((name, streams), []).append(row)
    return _medians(rows, "streams")


def _many(name: str) -> list[int]:
    """The numbers of streams at which front ends are compared: in sum, and for each of their processes."""
    return sorted({MANY_STREAMS, STREAMS_EACH * FRONTS.get(name, 2)})


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


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in WAYS]:
        raise argparse.ArgumentTypeError(f"there is no way {unknown[0]!r}, there are {', '.join(WAYS)}")
    return names


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the requests, for a quick look")
    parser.add_argument("--ways", default=list(WAYS), type=_names, help="names of ways, with commas between them; all")
    parser.add_argument("--dynamo-env", default=dynamo.ENVIRONMENT, type=Path, help="made when it is not there")
    parser.add_argument("--no-dynamo", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plots", type=Path, metavar="DIR")
    options = parser.parse_args()
    names = [name for name in options.ways if not (options.no_dynamo and name in DYNAMO)]
    problem = dynamo.prepare(options.dynamo_env) if set(DYNAMO) & set(names) else ""
    try:
        own_network()
    except OSError as error:
        # Dynamo listens on all interfaces, whatever it is told.
        problem = str(error)
    if problem:
        print(f"{problem}; without Dynamo then", file=sys.stderr)
        names = [name for name in names if name not in DYNAMO]
    with tempfile.TemporaryDirectory(prefix="trtdist-plane.") as folder, contextlib.ExitStack() as stack:
        at = stack.enter_context(services(Path(folder)))
        with contextlib.ExitStack() as started:
            found = list(ways(started, at, names, options.dynamo_env))
            measured = asyncio.run(measure_all(found, options.rounds, options.share))
        over_http = [name for name in names if name in (*FRONTS, *DYNAMO)]
        for kind in ("paced", "many") if over_http else ():
            with fronts(at, kind, over_http, options.dynamo_env) as there:
                measured[kind] = asyncio.run(measure_fronts(kind, there, options.rounds, options.share))
    figures.show(measured)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n")
    if options.plots:
        figures.draw(measured, options.plots)


if __name__ == "__main__":
    main()
