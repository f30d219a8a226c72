"""Histograms in chunks against numpy, which sees all values at once."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from training.engine.stats.histogram import (
    BINS,
    LARGEST,
    Histogram,
    linear_edges,
    log_edges,
)

NUMBERS = (
    st.floats(-LARGEST, LARGEST, allow_subnormal=False)
    | st.floats(-1, 1, allow_subnormal=False)
    | st.integers(0, 500).map(float)
)


def filled(values: list[float], cuts: list[int] = ()) -> Histogram:
    """Values in chunks, those above 50 in another group."""
    histogram = Histogram()
    for chunk in np.split(np.array(values, float), sorted(cuts)):
        histogram.add(chunk, (np.nan_to_num(chunk, posinf=0) > 50).astype(int))
    return histogram


@given(st.lists(NUMBERS, min_size=1, max_size=40), st.data())
@settings(max_examples=50, deadline=None)
def test_counts_depend_on_the_values_alone(values: list[float], data) -> None:
    whole = filled(values)
    shuffled = random.Random(0).sample(values, len(values))
    cuts = data.draw(st.lists(st.integers(0, len(values)), max_size=5))
    chunked = filled(shuffled, cuts)
    edges = linear_edges(min(values), max(values))
    assert (whole.width, whole.low, whole.high) == (chunked.width, chunked.low, chunked.high)
    assert (whole.rebinned(edges) == chunked.rebinned(edges)).all()
    assert whole.rebinned(edges).sum() == whole.count == len(values)
    assert not whole.rebinned(edges)[:, [0, -1]].any()  # the edges hold all of them


@given(st.lists(NUMBERS, min_size=1, max_size=60), st.floats(0, 1))
@example([1.0, 2.0, 3.0, 4.0], 0.5)
@settings(max_examples=50, deadline=None)
def test_quantiles_are_order_statistics_to_the_width_of_a_bin(values: list, share: float) -> None:
    histogram = filled(values)
    exact = np.quantile(values, share, method="inverted_cdf")
    assert exact - histogram.width <= histogram.quantile(share) <= exact
    spread = max(values) - min(values)
    size = max(abs(v) for v in values)
    assert histogram.width <= max(2 * spread / (BINS - 1), size / 2**51, 2**-30)


def test_whole_numbers_are_exact() -> None:
    values = np.random.default_rng(0).integers(0, 200, 5000).astype(float)
    histogram = filled(values.tolist(), [1, 17, 4000])
    edges = [0, 10, 20, 25, 100, 200]
    expected, _ = np.histogram(values, [-math.inf, *edges, math.inf])
    assert histogram.rebinned(edges).sum(axis=0).tolist() == expected.tolist()
    assert histogram.quantile(0.5) == np.quantile(values, 0.5, method="inverted_cdf")


def test_a_value_at_a_decimal_edge_is_above_it() -> None:
    values = [0.1, 0.3, 0.3, 0.7, 123.4]
    counts = filled(values).rebinned([0.1, 0.3, 0.7, 123.4, 200]).sum(axis=0)
    assert counts.tolist() == [0, 1, 2, 1, 1, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e16])
def test_what_is_no_measurement_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="expected at most"):
        filled([1.0, value])
    with pytest.raises(ValueError, match="no values"):
        Histogram().quantile(0.5)


@given(NUMBERS, NUMBERS, st.integers(4, 60))
@example(0.0, 1.0, 40)
@example(3.0, 3.0, 40)
@settings(max_examples=100, deadline=None)
def test_linear_edges_hold_the_range(a: float, b: float, most: int) -> None:
    low, high = min(a, b), max(a, b)
    edges = linear_edges(low, high, most)
    assert edges[0] <= low <= high < edges[-1]
    assert all(x < y for x, y in pairwise(edges))
    assert 2 <= len(edges) <= most + 3


@given(st.floats(1e-6, 1e9), st.floats(1, 1e9), st.integers(4, 60))
@example(1.0, 1.0, 40)
@settings(max_examples=100, deadline=None)
def test_log_edges_hold_the_range(low: float, times: float, most: int) -> None:
    edges = log_edges(low, low * times, most)
    assert edges[0] <= low * (1 + 1e-5) and low * times < edges[-1] * (1 + 1e-5)
    ratios = [y / x for x, y in pairwise(edges)]
    assert min(ratios) > 1 and max(ratios) == pytest.approx(min(ratios), rel=1e-4)
    assert 1.0 in log_edges(0.3, 30)
