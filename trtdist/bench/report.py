"""Results for people: lines of text, and an HTML page in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from html import escape

from trtdist.bench.result import Point, Result
from trtdist.bench.svg import Series, plot

__all__ = ["html", "text"]

_UNITS = {"concurrency": "open requests", "rate": "requests per second", "trace": "times the recorded speed"}

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:76em;margin:2em auto;padding:0 1em;color:#222;background:#fff}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.3em .7em;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}.plots{display:flex;flex-wrap:wrap;gap:1em}
figure{margin:0;flex:1 1 28em}svg{width:100%}svg text{font-size:13px;fill:#333}.grid{stroke:#e4e4e4}
.doubt{color:#a40000}code{white-space:pre-wrap}
"""

_COLUMNS = (
    "load", "requests", "TTFT p50 ms", "TTFT p99 ms", "ITL p50 ms", "ITL p99 ms", "E2E p50 ms", "E2E p99 ms",
    "requests/s", "tokens/s", "tokens/s/GPU", "tokens/s/user", "within SLO", "client CPU",
)  # fmt: skip


def text(result: Result) -> str:
    """A table as plain text."""
    rows = [_COLUMNS, *(_cells(point) for point in result.points)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    doubts = [f"{_load(point)}: {point.client.saturated}" for point in result.points if point.client.saturated]
    target = f", {result.target}" if result.target != result.name else ""
    return "\n".join([f"{result.name}{target}, {_gpus(result)}", *lines, *doubts])


def html(results: Sequence[Result]) -> str:
    """A page with the plots and tables of one or several results."""
    title = escape(" and ".join(result.name for result in results))
    tables = "\n".join(_section(result) for result in results)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'{head}\n<h1>{title}</h1>\n<div class="plots">{_plots(results)}</div>\n{tables}\n</html>\n'


def _plots(results: Sequence[Result]) -> str:
    kinds = list(dict.fromkeys(point.load for result in results for point in result.points))
    figures = [_over_load(results, kind) for kind in kinds]
    pareto = [
        Series(result.name, tuple((_user(p), p.figures.gpu_tokens_per_s) for p in points), tuple(map(_load, points)))
        for result in results
        if (points := sorted(result.points, key=_user))
    ]
    names = ("tokens per second and user", "tokens per second and GPU")
    return "\n".join([*figures, _figure("What users get against what a GPU gives", plot(pareto, *names))])


def _over_load(results: Sequence[Result], kind: str) -> str:
    series = []
    for result in results:
        points = sorted((point for point in result.points if point.load == kind), key=lambda point: point.value)
        for name in ("p50", "p99") if points else ():
            places = tuple((point.value, float(getattr(point.figures.latencies.ttft, name))) for point in points)
            series.append(Series(f"{result.name} {name}", places, tuple(map(_load, points))))
    return _figure("Time to first token over load", plot(series, _UNITS.get(kind, kind), "time to first token, ms"))


def _figure(caption: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"


def _section(result: Result) -> str:
    when = datetime.fromtimestamp(result.when, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    head = "".join(f"<th>{escape(name)}</th>" for name in _COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(point)) + "</tr>" for point in result.points
    )
    doubts = "".join(
        f'<p class="doubt">{escape(_load(point))}: {escape(point.client.saturated)}</p>'
        for point in result.points
        if point.client.saturated
    )
    setup = ", ".join(f"{name} {value}" for name, value in result.setup.items() if value is not None)
    return (
        f"<h2>{escape(result.name)}</h2><p>{escape(result.target)}, {_gpus(result)}, {when}</p>"
        f"<table><tr>{head}</tr>{rows}</table>{doubts}<p><code>{escape(setup)}</code></p>"
    )


def _cells(point: Point) -> tuple[str, ...]:
    found = point.figures
    times = found.latencies
    pairs = [(each.p50, each.p99) for each in (times.ttft, times.itl, times.e2e)]
    return (
        _load(point),
        str(found.requests),
        *(f"{value:.2f}" for pair in pairs for value in pair),
        f"{found.requests_per_s:.1f}",
        f"{found.tokens_per_s:.0f}",
        f"{found.gpu_tokens_per_s:.0f}",
        f"{_user(point):.1f}",
        f"{100 * found.good:.1f} %",
        f"{100 * point.client.cpu_share:.0f} %",
    )


def _user(point: Point) -> float:
    return point.figures.user_tokens_per_s


def _load(point: Point) -> str:
    return f"{point.load} {point.value:g}"


def _gpus(result: Result) -> str:
    return f"{result.gpus} GPU{'' if result.gpus == 1 else 's'}"
