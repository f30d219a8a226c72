"""Intervals hold what they say: by simulation, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_1samp

from training.evaluation.frechet import frechet_distance
from training.evaluation.intervals import FEW, MANY, of_distance, over_clips, over_runs


def test_bootstrap_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng, trials = np.random.default_rng(1), 300
    hits = 0
    for trial in range(trials):
        low, high = over_clips(rng.exponential(size=2 * FEW), seed=trial, resamples=400)
        hits += low <= 1 <= high
    assert 0.90 <= hits / trials <= 0.985


def test_interval_is_a_function_of_values_and_seed() -> None:
    values = np.random.default_rng(0).normal(size=40)
    assert over_clips(values, seed=3) == over_clips(values, seed=3) != over_clips(values, seed=4)


def test_interval_of_equal_values_is_that_value() -> None:
    assert over_clips([0.5] * 10) == (0.5, 0.5)
    assert over_clips([1.0]) is None is over_runs([1.0])


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).exponential(size=60),
        np.random.default_rng(1).pareto(2, 700),
        1e6 + np.random.default_rng(2).normal(size=5),
        np.random.default_rng(3).random(200) < 0.1,
        np.eye(1, 50)[0],
    ],
    ids=["exponential", "pareto", "few", "shares", "one"],
)
def test_bootstrap_interval_is_scipys(values) -> None:
    """With the jackknife in closed form; the resamples are the same."""
    values = np.asarray(values, float)
    own = over_clips(values, seed=3, resamples=999)
    rng = np.random.default_rng(3)
    found = bootstrap((values,), np.mean, n_resamples=999, method="BCa", rng=rng)
    assert own == pytest.approx(tuple(found.confidence_interval), rel=1e-12)


def test_interval_of_small_values_is_theirs_scaled() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    scaled = over_clips(1e-200 * values)
    assert 1e200 * np.array(scaled) == pytest.approx(over_clips(values), rel=1e-9)


def test_many_values_have_the_normal_interval_which_is_by_then_the_bootstraps() -> None:
    values = np.random.default_rng(0).exponential(size=MANY + 1)
    half = 1.96 * values.std() / len(values) ** 0.5
    normal = over_clips(values)
    assert normal == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-6)
    low, high = over_clips(values[:-1], resamples=200)
    assert low == pytest.approx(normal[0], abs=half / 4)
    assert high == pytest.approx(normal[1], abs=half / 4)


def test_no_interval_without_resamples_or_of_what_is_not_finite() -> None:
    assert over_clips([1.0, 2.0], resamples=0) is None
    assert over_clips([1.0, float("nan"), 2.0]) is None is over_clips([1.0, float("inf")])


def test_interval_over_runs_is_students() -> None:
    values = [1.0, 2.0, 4.0]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert over_runs(values) == pytest.approx((expected.low, expected.high))
    assert over_runs([2.0, 2.0]) == (2.0, 2.0)


def test_interval_of_a_distance_holds_the_mean_distance_of_that_many_samples() -> None:
    rng, n, trials = np.random.default_rng(0), 80, 60

    def draw() -> tuple[list[np.ndarray], list[np.ndarray]]:
        return list(rng.normal(size=(n, 1, 6))), list(0.3 + rng.normal(size=(n, 1, 6)))

    pairs = [draw() for _ in range(trials)]
    mean = np.mean([frechet_distance(*map(np.concatenate, pair)) for pair in pairs])
    found = [of_distance(frechet_distance, *pair, seed=i) for i, pair in enumerate(pairs)]
    held = np.mean([low <= mean <= high for (low, high), _ in found])
    assert held >= 0.93
    # What the bootstrap calls the bias is what is above the distance of infinitely many samples.
    bias = np.mean([bias for _, bias in found])
    assert mean - 6 * 0.3**2 == pytest.approx(bias, rel=0.15)


def test_clips_of_one_file_are_drawn_together() -> None:
    """Every file twice says no more than once: the interval stays as wide."""
    rng = np.random.default_rng(0)
    made, true = rng.normal(size=(60, 1, 4)), rng.normal(size=(60, 1, 4)) + 0.5
    once, _ = of_distance(frechet_distance, list(made), list(true), resamples=200)
    twice, _ = of_distance(
        frechet_distance, *([x.repeat(2, 0) for x in s] for s in (made, true)), resamples=200
    )
    assert np.ptp(twice) == pytest.approx(np.ptp(once), rel=0.1)
