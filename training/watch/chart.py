"""Line charts as inline SVG, small enough to need no plotting library."""

from __future__ import annotations

import html
import math
import sys
from collections.abc import Mapping, Sequence

MOST_POINTS = 600
"""Longer curves are drawn as means of neighbours, so that a page of a long run stays small."""

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 30
_COLOURS = ("#2f6fde", "#d9542b", "#2a9d62", "#9b51c9", "#c08a00", "#1aa3b8", "#c2337f", "#6b7280")

Points = Sequence[tuple[float, float]]


def line_chart(title: str, series: Mapping[str, Points], *, is_log: bool = False) -> str:
    """An `<svg>` with a `<polyline>` per series; names and title are escaped.

    series: name to (step, value) in order of step; values that are None or not finite are left
    out. is_log: logarithmic values where all are above 0. "" where nothing is left to draw.
    """
    sound = {name: kept for name, points in series.items() if (kept := _sound(points))}
    if not sound:
        return ""
    drawn = {name: thinned(points) for name, points in sound.items()}
    ys = [y for points in drawn.values() for _, y in points]
    xs = [x for points in drawn.values() for x, _ in points]
    is_log = is_log and min(ys) > 0
    x_of = _Scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    y_of = _Scale(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP, is_log)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f'<text class="title" x="{_LEFT}" y="18">{html.escape(title)}</text>',
        *_grid(x_of, y_of),
        *(_line(i, name, points, x_of, y_of) for i, (name, points) in enumerate(drawn.items())),
        "</svg>",
    ]
    return "\n".join(parts) + _legend(sound)


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most `most` points: means of neighbours where there are more."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [tuple(sum(column) / len(group) for column in zip(*group)) for group in groups]  # noqa: B905


class _Scale:
    """Values to pixels, with the value range widened where it is a single value."""

    def __init__(self, low: float, high: float, start: float, end: float, is_log: bool = False):
        self.to = math.log10 if is_log else float
        self.back = (lambda v: 10**v) if is_log else float
        self.start, self.end = start, end
        self.low, self.high = self.to(low), self.to(high)
        if self.low == self.high:
            margin = abs(self.low) * 0.05 or 0.5
            most = sys.float_info.max
            self.low, self.high = max(self.low - margin, -most), min(self.high + margin, most)

    def __call__(self, value: float) -> float:
        # halves first: the difference of two huge values may have no finite number
        share = (self.to(value) / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        shares = [i / (count - 1) for i in range(count)]
        values = [self.low * (1 - share) + self.high * share for share in shares]
        return [
            (round(self.start + share * (self.end - self.start), 2), short_number(self.back(value)))
            for share, value in zip(shares, values, strict=True)
        ]


def _sound(points: Points) -> list[tuple[float, float]]:
    return [
        (x, float(y)) for x, y in points if isinstance(y, (int, float)) and math.isfinite(float(y))
    ]


def _grid(x_of: _Scale, y_of: _Scale) -> list[str]:
    lines = []
    for y, label in y_of.ticks(5):
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
    for x, label in x_of.ticks(5):
        lines.append(f'<text x="{x}" y="{_HEIGHT - 8}" text-anchor="middle">{label}</text>')
    return lines


def _line(index: int, name: str, points: Points, x_of: _Scale, y_of: _Scale) -> str:
    colour = _COLOURS[index % len(_COLOURS)]
    pixels = [(x_of(x), y_of(y)) for x, y in points]
    path = " ".join(f"{x},{y}" for x, y in pixels)
    x, y = pixels[-1]  # a dot, so that a single point is seen
    return (
        f'<polyline data-name="{html.escape(name)}" points="{path}" stroke="{colour}"/>'
        f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>'
    )


def short_number(value: float) -> str:
    """Four digits, with a letter for thousands, millions and milliards."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if 10 * size <= abs(value) < 10_000 * size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def _legend(sound: Mapping[str, Points]) -> str:
    """Names with the last value as it is in the data."""
    entries = [
        f'<span><i style="background:{_COLOURS[i % len(_COLOURS)]}"></i>'
        f"{html.escape(name)}: {points[-1][1]:.5g}</span>"
        for i, (name, points) in enumerate(sound.items())
    ]
    return f'<p class="legend">{" ".join(entries)}</p>'
