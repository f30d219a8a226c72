"""Fréchet distance against closed forms, against SciPy's matrix root and against torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from training.evaluation.frechet import frechet_distance
from training.evaluation.measures import _by_torchmetrics


def exact(mean: np.ndarray, root: np.ndarray, n: int = 400) -> np.ndarray:
    """Samples whose mean and covariance (root root^T) are exactly these."""
    draw = np.random.default_rng(len(mean) + n).normal(size=(n, len(mean)))
    draw -= draw.mean(0)
    white = draw @ np.linalg.inv(np.linalg.cholesky(np.cov(draw.T)).T)
    return mean + white @ root.T


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    means = np.square(a.mean(0) - b.mean(0)).sum()
    return float(means + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real))


def test_means_apart_count_squared() -> None:
    a, b = exact(np.zeros(4), np.eye(4)), exact(np.array([3.0, 0, 4, 0]), np.eye(4))
    assert frechet_distance(a, b) == pytest.approx(25)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


THREE = st.lists(st.floats(0.1, 5), min_size=3, max_size=3)


@given(THREE, THREE)
@settings(max_examples=30, deadline=None)
def test_deviations_apart_count_squared(s, t) -> None:
    """For covariances that commute: the sum of (s - t)^2, of the deviations along each axis."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    a, b = exact(np.zeros(3), turn * s), exact(np.ones(3), turn * t)
    expected = 3 + np.square(np.subtract(s, t)).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("counts", [(60, 50), (12, 40), (5, 4)])
def test_any_features_agree_with_scipy_and_torchmetrics(counts) -> None:
    rng = np.random.default_rng(3)
    mix = rng.normal(size=(10, 10))
    a, b = rng.normal(size=(counts[0], 10)) @ mix, 1 + rng.normal(size=(counts[1], 10))
    value = frechet_distance(a, b)
    # With fewer samples than features their product is singular, and the roots are rounded.
    tolerance = 1e-7 if min(counts) > 10 else 1e-3
    assert value == pytest.approx(by_scipy(a, b), rel=tolerance)
    assert value == pytest.approx(_by_torchmetrics(a, b), rel=tolerance)


def test_singular_covariances_are_exact() -> None:
    """Two samples each, along two lines at right angles: the product of covariances is zero."""
    a = np.array([[-1.0, 0, 0], [1, 0, 0]])
    b = np.array([[0, -2.0, 0], [0, 2, 0]])
    assert frechet_distance(a, b) == pytest.approx(2 + 8)
    assert frechet_distance(a, 3 * a) == pytest.approx((3 - 1) ** 2 * 2)


def test_float32_features_are_computed_in_float64() -> None:
    rng = np.random.default_rng(0)
    a = (1e4 + rng.normal(size=(300, 5))).astype(np.float32)
    assert frechet_distance(a, a.astype(np.float64)) == pytest.approx(0, abs=1e-6)
    assert torch.tensor(frechet_distance(a, a + 1)) == pytest.approx(5, rel=1e-3)


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5, 4))])
def test_other_features_are_refused(shapes) -> None:
    with pytest.raises(ValueError, match="two or more rows of one width"):
        frechet_distance(*map(np.zeros, shapes))
