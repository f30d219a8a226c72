"""Histograms of values that come in chunks, whose range nobody knows beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BINS = 2**15
"""Narrow bins that are counted in: each is at most 1/16384 of the range of all values."""
LARGEST = 1e15
"""Larger values are no measurements."""

_FINEST = -30  # width 2**-30
_EXACT = 2.0**52  # numbers of bins below it are exact as floats


class Histogram:
    """Counts in one pass, for a few groups apart.

    The bins are as wide as a power of two, and all multiples of it are edges. The width doubles
    until all values fit into `BINS` bins; neighbours are then added up, so the counts depend on the
    values alone, not on their order or on how they were cut into chunks.
    """

    def __init__(self, groups: int = 2):
        self.low, self.high = math.inf, -math.inf  # of all values
        self._exponent = _FINEST
        self._first = 0  # number of the first bin: its lower edge is number * width
        self._counts = np.zeros((groups, BINS), np.int64)

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self._exponent)

    @property
    def count(self) -> int:
        return int(self._counts.sum())

    def add(self, values: np.ndarray, groups: np.ndarray) -> None:
        """values: float64 (n,), finite and at most `LARGEST`; groups: int (n,), the group of each.

        Raises ValueError for other values.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not max(-low, high) <= LARGEST:
            raise ValueError(f"values from {low} to {high}: expected at most {LARGEST:g}")
        self._cover(min(low, self.low), max(high, self.high))
        numbers = np.floor(np.ldexp(values, -self._exponent)).astype(np.int64) - self._first
        np.add.at(self._counts, (groups, numbers), 1)

    def _cover(self, low: float, high: float) -> None:
        """Widens the bins until values from `low` to `high` fit."""
        if (low, high) == (self.low, self.high):
            return
        self.low, self.high = low, high
        exponent = self._exponent
        while (
            _number(high, exponent) - _number(low, exponent) >= BINS
            or math.ldexp(max(-low, high), -exponent) >= _EXACT
        ):
            exponent += 1
        first = _number(low, exponent)
        used = np.flatnonzero(self._counts.any(axis=0))
        counts = np.zeros_like(self._counts)
        moved = ((used + self._first) >> (exponent - self._exponent)) - first
        np.add.at(counts.T, moved, self._counts.T[used])
        self._exponent, self._first, self._counts = exponent, first, counts

    def quantile(self, share: float) -> float:
        """The smallest value that at least `share` of the values are not above: the lower edge of
        its bin. ValueError where there is no value."""
        counts = self._counts.sum(axis=0)
        total = counts.sum()
        if not total:
            raise ValueError("no values: there is no quantile")
        rank = min(max(math.ceil(share * total), 1), total)
        below = np.cumsum(counts)
        index = int(np.searchsorted(below, rank))
        return max((self._first + index) * self.width, self.low)

    def rebinned(self, edges: Sequence[float]) -> np.ndarray:
        """Counts between ascending edges, int (groups, len(edges) + 1): the first column is what
        lies below the first edge, the last what lies from the last edge on.

        A narrow bin with an edge in it counts as above the edge, so that values that are edges are
        where they belong.
        """
        upper = (self._first + np.arange(BINS) + 1) * self.width
        column = np.searchsorted(np.asarray(edges, float), upper, side="left")
        counts = np.zeros((len(edges) + 1, len(self._counts)), np.int64)
        np.add.at(counts, column, self._counts.T)
        return counts.T


def _number(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def nice_step(span: float, most: int) -> float:
    """1, 2 or 5 times a power of ten: the smallest of which at most `most` fit into `span`."""
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next((m * power for m in (1, 2, 5) if m * power >= rough * (1 - 1e-9)), 10 * power)


def linear_edges(low: float, high: float, most: int = 40) -> list[float]:
    """Edges at round numbers, so that `low` and `high` lie within; at most `most` + 1 bins."""
    size = max(abs(low), abs(high), 1.0)
    if high - low <= 1e-6 * size:  # as good as a single value
        margin = 0.05 * size
        low, high = low - margin if low < 0 or low > margin else 0.0, high + margin
    step = nice_step(high - low, most)
    first, last = math.floor(low / step), math.floor(high / step + 1e-9) + 1
    digits = max(0, -math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def log_edges(low: float, high: float, most: int = 40) -> list[float]:
    """Edges of which each is the same multiple of the one before, powers of ten among them."""
    low = max(low, 1e-300)
    decades = max(math.log10(max(high, low) / low), 0.1)
    each = next((n for n in (20, 10, 5, 2, 1) if n * decades <= most - 1), 1)
    first = math.floor(math.log10(low) * each + 1e-9)
    last = math.floor(math.log10(max(high, low)) * each + 1e-9) + 1
    return [float(f"{10 ** (number / each):.6g}") for number in range(first, last + 1)]
