"""Line plots as SVG text: axes with round numbers, series with points, a legend. No more than a report needs."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "document", "plot", "ticks"]

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 56
# Okabe and Ito: told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
TICKS = 5


@dataclass(frozen=True)
class Series:
    """Points of one line, in the order in which they are joined, and a word for each that is shown when pointed at."""

    name: str
    points: tuple[tuple[float, float], ...]
    labels: tuple[str, ...] = ()


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to at least `most`, about five of them."""
    rough = most / TICKS
    # The smallest numbers have no fifth.
    if rough < sys.float_info.min or not math.isfinite(most):
        return [0.0, 1.0]
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * unit for factor in (1, 2, 2.5, 5) if factor * unit >= rough), 10 * unit)
    return [number * step for number in range(math.ceil(most / step - 1e-9) + 1)]


def plot(series: Sequence[Series], x_name: str, y_name: str) -> str:
    """An SVG element with all series on common axes that begin at 0."""
    points = [point for each in series for point in each.points]
    x_ticks = ticks(max((x for x, _ in points), default=0.0))
    y_ticks = ticks(max((y for _, y in points), default=0.0))
    frame = _Frame(x_ticks[-1], y_ticks[-1])
    parts = [*_axes(frame, x_ticks, y_ticks, x_name, y_name)]
    for number, each in enumerate(series):
        parts += _line(frame, each, COLOURS[number % len(COLOURS)], number)
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_name)}">\n{body}\n</svg>'


def document(svg: str) -> str:
    """A plot as a file of its own, with the style that a page would give it."""
    style = "text{font:13px system-ui,sans-serif;fill:#333}.grid{stroke:#e4e4e4}svg{background:#fff}"
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    opened = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{head}\n{opened.replace(chr(10), f'{chr(10)}<style>{style}</style>{chr(10)}', 1)}\n"


@dataclass(frozen=True)
class _Frame:
    x_most: float
    y_most: float

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_most

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.y_most


def _axes(frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], x_name: str, y_name: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in x_ticks:
        place = frame.x(value)
        parts.append(f'<line class="grid" x1="{place:.1f}" y1="{TOP}" x2="{place:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">{value:g}</text>')
    for value in y_ticks:
        place = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{place:.1f}" x2="{right}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_name)}</text>')
    turned = f'transform="rotate(-90 16 {middle})"'
    parts.append(f'<text x="16" y="{middle}" text-anchor="middle" {turned}>{escape(y_name)}</text>')
    return parts


def _line(frame: _Frame, series: Series, colour: str, number: int) -> list[str]:
    places = [(frame.x(x), frame.y(y)) for x, y in series.points]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>']
    labels = series.labels or ("",) * len(places)
    for (x, y), label in zip(places, labels, strict=True):
        title = f"<title>{escape(label)}</title>" if label else ""
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{title}</circle>')
    row = TOP + 14 + 18 * number
    parts.append(f'<circle cx="{LEFT + 14}" cy="{row - 4}" r="4" fill="{colour}"/>')
    parts.append(f'<text x="{LEFT + 24}" y="{row}">{escape(series.name)}</text>')
    return parts
