"""What `benchmarks/data_plane.py` measured, as tables and as plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.plane.fronts import FRONTS
from trtdist.bench.svg import Series, document, plot

__all__ = ["draw", "show"]

_COMPARED = (
    ("nats", "raw-nats"),
    ("raw-nats", "raw-nats-clear"),
    ("nats", "relay"),
    ("http", "bare-http"),
    ("http", "dynamo-nodelay"),
    ("dynamo-nodelay", "bare-http"),
)
_FRONT_COLUMNS = (
    "chunks_per_s", "front_us_per_chunk", "front_reads_per_chunk", "front_writes_per_chunk", "front_mb",
    "smaller_share", "ttft_p50_ms", "ttft_p99_ms", "delay_p50_ms", "delay_p99_ms", "worker_us_per_chunk",
    "router_us_per_request",
)  # fmt: skip
_PLOTS = (
    ("tokens.svg", "tokens_per_s", "tokens per second"),
    ("ttft.svg", "ttft_p50_ms", "time to first token, median, ms"),
    ("front-cpu.svg", "front_us_per_token", "front end's CPU per token, us"),
)


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    columns = ("requests_per_s", "tokens_per_s", "ttft_p50_ms", "ttft_p99_ms", "client_us_per_token")
    columns += ("worker_us_per_token", "router_us_per_request", "front_us_per_token", "nats_us_per_token")
    columns += ("front_mb", "router_mb")
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
    for name, other in _COMPARED:
        for streams in sorted({streams for _, streams in rows}):
            if (name, streams) in rows and (other, streams) in rows:
                ratio = rows[name, streams]["tokens_per_s"] / rows[other, streams]["tokens_per_s"]
                print(f"tokens/s at {streams} streams, {name} over {other}: {ratio:.2f}")
    for kind in ("paced", "many"):
        _show_fronts(kind, found.get(kind, []))


def _show_fronts(kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        columns = (name.removeprefix("front_").replace("_per_", "/") for name in _FRONT_COLUMNS)
        print(f"\n{kind:<16}{'streams':>8}" + "".join(f"{name:>19}" for name in columns))
    found = {(row["way"], row["streams"]): row for row in rows}
    for (way, streams), row in found.items():
        print(f"{way:<16}{streams:>8}" + "".join(f"{row[name]:>19.2f}" for name in _FRONT_COLUMNS))
    for (way, streams), several in found.items():
        processes = FRONTS.get(way, 1)
        for how, number in (("in sum", streams), ("for each process", streams // processes)):
            one = found.get(("http", number))
            if processes > 1 and one is not None:
                chunks, cpu = (several[name] / one[name] for name in ("chunks_per_s", "front_us_per_chunk"))
                title = f"{processes} processes over one, {number} streams {how}"
                print(f"{title}: {chunks:.2f} times the chunks/s, {cpu:.2f} times the CPU per chunk")


def draw(found: Mapping[str, Any], folder: Path) -> None:
    """Write the plots of `docs/performance.md` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, column, name in _PLOTS:
        by_way: dict[str, list[tuple[float, float]]] = {}
        for row in found["loads"]:
            if column in row:
                by_way.setdefault(row["way"], []).append((row["streams"], row[column]))
        series = [Series(way, tuple(sorted(points))) for way, points in by_way.items()]
        (folder / file).write_text(document(plot(series, "streams at once", name)))
    by_length: dict[str, list[tuple[float, float]]] = {}
    for row in found["lengths"]:
        if "router_us_per_request" in row:
            by_length.setdefault(row["way"], []).append((row["output_tokens"], row["router_us_per_request"]))
    series = [Series(way, tuple(sorted(points))) for way, points in by_length.items()]
    (folder / "router-cpu.svg").write_text(
        document(plot(series, "tokens of an answer", "router's CPU per request, us"))
    )
