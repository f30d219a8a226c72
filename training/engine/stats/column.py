"""What is counted of one measure, and of one word, while rows pass; kept and dropped rows apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .histogram import Histogram, linear_edges, log_edges
from .measures import Cut, Measure, shortened
from .picks import Clip, strips

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
KEPT, DROPPED = 0, 1
_MOST_BARS, _LEAST_BARS = 40, 10
_ENDS = 0.005  # share of the rows at each end that a chart sums up
_LISTED = 20  # words of a tally
_TOLD_APART = 10_000


class Column:
    """One measure: its distribution, what each threshold cuts off, the clips of its sheet."""

    def __init__(self, measure: Measure, cuts: Sequence[Cut], size: int):
        self.measure, self.cuts = measure, list(cuts)
        self.strips = strips(measure, cuts, size) if measure.has_sheet and size else []
        self.count = self.missing = 0
        self.low, self.high, self.sum = math.inf, -math.inf, 0.0
        self.dropped = [0] * len(self.cuts)
        self._histogram = Histogram()  # of the values, or of the logarithms of those above 0
        self._without_log = [0, 0]  # others, by group

    def add(self, values: np.ndarray, groups: np.ndarray) -> None:
        """values: float64 (n,), NaN where a row has none; groups: `KEPT` or `DROPPED` for each."""
        there = ~np.isnan(values)
        self.missing += int((~there).sum())
        values, groups = values[there], groups[there]
        if not values.size:
            return
        self.count += values.size
        self.sum += float(values.sum())
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        for index, cut in enumerate(self.cuts):
            self.dropped[index] += int((cut.inside(values) < 0).sum())
        if self.measure.is_log:
            positive = values > 0
            for group in (KEPT, DROPPED):
                self._without_log[group] += int((groups[~positive] == group).sum())
            values, groups = np.log2(values[positive]), groups[positive]
        self._histogram.add(values, groups)

    def offer(
        self, values: np.ndarray, priorities: np.ndarray, clip: Callable[[int], Clip]
    ) -> None:
        """Rows for the contact sheet, see `Picks.offer`."""
        for strip in self.strips:
            strip.offer(strip.key(values), priorities, clip)

    def quantile(self, share: float) -> float:
        """The value that `share` of all rows with one are not above."""
        if not self.measure.is_log:
            return self._histogram.quantile(share)
        rank = max(1, math.ceil(share * self.count)) - sum(self._without_log)
        if rank <= 0:
            return self.low
        return 2 ** self._histogram.quantile(rank / self._histogram.count)

    def figures(self) -> dict[str, Any]:
        """For stats.json; of a measure that no row has, without the distribution."""
        measure = self.measure
        figures: dict[str, Any] = {
            "label": measure.label,
            "unit": measure.unit,
            "step": measure.step,
            "count": self.count,
            "missing": self.missing,
            "cuts": [
                {"rule": cut.rule, "side": cut.side, "at": cut.at, "rows": rows}
                for cut, rows in zip(self.cuts, self.dropped, strict=True)
            ],
        }
        if self.count:
            figures |= {
                "mean": tidy(self.sum / self.count),
                "min": tidy(self.low),
                "max": tidy(self.high),
                "quantiles": {f"{share:g}": tidy(self.quantile(share)) for share in QUANTILES},
                "scale": "log" if measure.is_log else "linear",
                "histogram": self._bars(),
            }
        return figures

    def _bars(self) -> dict[str, Any]:
        """Counts between edges that hold nearly all rows and all thresholds; `below` and `above`
        sum up the rest."""
        at = [cut.at for cut in self.cuts]
        most = min(_MOST_BARS, max(_LEAST_BARS, round(2 * math.sqrt(self.count))))
        low, high = (self.quantile(share) for share in (_ENDS, 1 - _ENDS))
        low, high = min(low, *at, high), max(high, *at, low)
        if self.measure.is_log:
            least = 2 ** self._histogram.quantile(0) if self._histogram.count else 1.0
            low = max(low, least / 10)
            edges = log_edges(low, max(low, high), most)
            counts = self._histogram.rebinned(np.log2(edges))
            counts[:, 0] += self._without_log
        else:
            edges = linear_edges(low, high, most)
            counts = self._histogram.rebinned(edges)
        kept, dropped = counts.tolist()
        return {
            "edges": edges,
            "kept": kept[1:-1],
            "dropped": dropped[1:-1],
            "below": {"kept": kept[0], "dropped": dropped[0]},
            "above": {"kept": kept[-1], "dropped": dropped[-1]},
        }


class Tally:
    """How many rows have each of the words that strangers chose freely."""

    def __init__(self) -> None:
        self._counts: dict[str | None, list[int]] = {}

    def add(self, word: Any, group: int = KEPT) -> None:
        is_known = isinstance(word, str) and word in self._counts  # saves most of the time
        name = word if is_known or word is None else shortened(word)
        if name not in self._counts and len(self._counts) >= _TOLD_APART:
            name = None
        self._counts.setdefault(name, [0, 0])[group] += 1

    def figures(self, most: int = _LISTED) -> list[dict[str, Any]]:
        """The most frequent words first; value None sums up the others."""
        counts = {name: list(n) for name, n in self._counts.items()}
        others = counts.pop(None, [0, 0])
        ordered = sorted(counts.items(), key=lambda item: (-sum(item[1]), item[0]))
        for _, (kept, dropped) in ordered[most:]:
            others = [others[KEPT] + kept, others[DROPPED] + dropped]
        listed = ordered[:most] + ([(None, others)] if any(others) else [])
        return [{"value": word, "kept": n[KEPT], "dropped": n[DROPPED]} for word, n in listed]


def tidy(value: float) -> float:
    """Six significant digits: what is measured is not known to more."""
    return float(f"{value:.6g}")
