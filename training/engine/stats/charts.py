"""Charts as inline SVG. Colours and fonts are the page's, by classes; all texts in it are numbers.

What strangers named is told in HTML around a chart, never in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...watch.chart import short_number
from .histogram import nice_step

_WIDTH, _HEIGHT = 400, 196
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 22, 26
_END = 14  # pixels of the bar that sums up what lies beyond an end, with its gap
_ACROSS, _UP = (_LEFT, _WIDTH - _RIGHT), (_TOP, _HEIGHT - _BOTTOM)
_JOINT = (640, 420)
_JOINT_TOP = 12
_MOST_TICKS = 6


class Axis:
    """Values to pixels; linear or logarithmic."""

    def __init__(self, low: float, high: float, start: float, end: float, is_log: bool = False):
        self.is_log, self.start, self.end = is_log, start, end
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        """Pixels; what is beyond an end is at it."""
        value = min(max(value, self.low), self.high)
        to = math.log if self.is_log else float
        share = (to(value) - to(self.low)) / ((to(self.high) - to(self.low)) or 1.0)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self) -> list[float]:
        """Round numbers within, a few."""
        if self.is_log and self.high >= 20 * self.low:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for multiples in ((1, 2, 5), (1,)):
                powers = [float(f"{m}e{d}") for d in range(first, last + 1) for m in multiples]
                ticks = [tick for tick in powers if self.low <= tick <= self.high]
                if len(ticks) <= _MOST_TICKS + 2:
                    return ticks
            return ticks[:: math.ceil(len(ticks) / _MOST_TICKS)]
        step = nice_step(self.high - self.low, _MOST_TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def bar(shares: Mapping[str, float]) -> str:
    """A bar of a table: parts of the whole width by their class. Shares of 1 in all at most."""
    parts, at = [], 0.0
    for name, share in shares.items():
        width = round(100 * share, 3)
        parts.append(f'<rect class="{name}" x="{round(at, 3)}" width="{width}" height="10"/>')
        at += width
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def distribution(figures: Mapping[str, Any], label_id: str) -> str:
    """The histogram of a measure as `Column.figures` gives it, with its thresholds.

    label_id: of the element that names the chart.
    """
    bars = figures["histogram"]
    edges = bars["edges"]
    has_less, has_more = (any(bars[end].values()) for end in ("below", "above"))
    axis = _axis(figures, _LEFT + _END * has_less, _WIDTH - _RIGHT - _END * has_more)
    columns = [
        (axis(low), axis(high), kept, dropped, f"{number(low)} to {number(high)}")
        for low, high, kept, dropped in zip(
            edges, edges[1:], bars["kept"], bars["dropped"], strict=False
        )
    ]
    if has_less:
        ends = (_LEFT, _LEFT + _END - 4, *bars["below"].values())
        columns.insert(0, (*ends, f"below {number(edges[0])}"))
    if has_more:
        ends = (_WIDTH - _RIGHT - _END + 4, _WIDTH - _RIGHT, *bars["above"].values())
        columns.append((*ends, f"{number(edges[-1])} and above"))
    most = max(kept + dropped for _, _, kept, dropped, _ in columns)
    height = Axis(0, _top(most), _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-labelledby="{label_id}">',
        *_levels(height),
        *(_off(cut, axis(cut["at"]), _ACROSS, _UP) for cut in figures["cuts"]),
        *(_column(*column, height) for column in columns),
        *(_cut(cut, axis) for cut in figures["cuts"]),
        f'<line class="base" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height(0)}" '
        f'y2="{height(0)}"/>',
        *_values(axis, _HEIGHT - 8),
        "</svg>",
    ]
    return "\n".join(filter(None, parts))


def joint(
    points: Sequence[Sequence[Any]],
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    label_id: str,
) -> str:
    """Points (x, y, kept) of two measures, whose figures tell the axes and the thresholds."""
    width, height = _JOINT
    (left, right), (top, bottom) = ends = (_LEFT, width - _RIGHT), (_JOINT_TOP, height - _BOTTOM)
    across, up = _axis(x, left, right), _axis(y, bottom, top)
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{label_id}">',
        *(_off(cut, across(cut["at"]), *ends) for cut in x["cuts"]),
        *(_off_up(cut, up(cut["at"]), *ends) for cut in y["cuts"]),
        *(_level(up(tick), right, tick) for tick in up.ticks()),
        *_values(across, height - 8),
    ]
    for name, kept in (("dropped", False), ("kept", True)):
        dots = "".join(
            f'<circle cx="{across(a)}" cy="{up(b)}" r="3"/>' for a, b, k in points if k == kept
        )
        parts.append(f'<g class="dots {name}">{dots}</g>')
    for at in (across(cut["at"]) for cut in x["cuts"]):
        parts.append(f'<line class="cut" x1="{at}" x2="{at}" y1="{top}" y2="{bottom}"/>')
    for at in (up(cut["at"]) for cut in y["cuts"]):
        parts.append(f'<line class="cut" x1="{left}" x2="{right}" y1="{at}" y2="{at}"/>')
    return "\n".join([*parts, "</svg>"])


def _axis(figures: Mapping[str, Any], start: float, end: float) -> Axis:
    """The axis of a measure's histogram."""
    edges = figures["histogram"]["edges"]
    return Axis(edges[0], edges[-1], start, end, figures["scale"] == "log")


def number(value: float) -> str:
    """For people: 3 digits, or a whole number; ten thousands and millions with their letter."""
    value = float(f"{value:.3g}") if abs(value) < 1000 else round(value)
    return short_number(value).replace("-", "−")


def _top(most: int) -> float:
    """A round count above all bars."""
    step = max(1.0, nice_step(max(most, 1), 3))
    return step * math.ceil(most / step) or 1.0


def _levels(height: Axis) -> Iterator[str]:
    step = max(1.0, nice_step(height.high, 3))
    for place in range(1, int(height.high / step) + 1):
        yield _level(height(place * step), _WIDTH - _RIGHT, place * step)


def _level(y: float, right: float, value: float) -> str:
    """A line across with its number."""
    return (
        f'<line class="level" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{number(value)}</text>'
    )


def _values(axis: Axis, y: float) -> Iterator[str]:
    for tick in axis.ticks():
        yield f'<text x="{axis(tick)}" y="{y}" text-anchor="middle">{number(tick)}</text>'


def _column(left: float, right: float, kept: int, dropped: int, where: str, height: Axis) -> str:
    """One stacked bar, with its numbers as a tool tip over the whole height."""
    if not kept + dropped:
        return ""
    wide = round(max(right - left - 1, 0.5), 2)
    base, middle, top = height(0), height(kept), height(kept + dropped)
    parts = [f"<g><title>{where}: {kept:,} kept, {dropped:,} dropped</title>"]
    for name, low, high in (("kept", base, middle), ("dropped", middle, top)):
        if low > high:
            size = f'y="{high}" width="{wide}" height="{round(low - high, 2)}"'
            parts.append(f'<rect class="{name}" x="{left}" {size}/>')
    over = f'x="{left}" y="{_TOP}" width="{round(right - left, 2)}" height="{base - _TOP}"'
    return "".join([*parts, f'<rect class="over" {over}/></g>'])


def _off(
    cut: Mapping[str, Any], at: float, across: tuple[float, float], up: tuple[float, float]
) -> str:
    """What a threshold on the axis across drops. across: left and right end; up: top, bottom."""
    left, right = (across[0], at) if cut["side"] == "below" else (at, across[1])
    return _shade(left, right, *up)


def _off_up(
    cut: Mapping[str, Any], at: float, across: tuple[float, float], up: tuple[float, float]
) -> str:
    top, bottom = (at, up[1]) if cut["side"] == "below" else (up[0], at)
    return _shade(*across, top, bottom)


def _shade(left: float, right: float, top: float, bottom: float) -> str:
    size = f'width="{round(right - left, 2)}" height="{round(bottom - top, 2)}"'
    return f'<rect class="off" x="{left}" y="{top}" {size}/>'


def _cut(cut: Mapping[str, Any], axis: Axis) -> str:
    """A threshold, with its number on the side that it drops."""
    at, is_below = axis(cut["at"]), cut["side"] == "below"
    to_the_left = at > _LEFT + 40 if is_below else at > _WIDTH - _RIGHT - 40
    x, anchor = (at - 3, "end") if to_the_left else (at + 3, "start")
    return (
        f'<line class="cut" x1="{at}" x2="{at}" y1="{_TOP - 12}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text class="cut" x="{round(x, 2)}" y="{_TOP - 6}" text-anchor="{anchor}">'
        f"{'&lt;' if is_below else '&gt;'} {cut['at']:g}</text>"
    )
