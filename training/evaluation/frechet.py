"""Fréchet distance between two sets of features: FVD with I3D's, FID with Inception's.

Heusel et al. 2017: |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), mu and C the mean and
covariance of each set.

Legend: n, m samples, D features.
"""

from __future__ import annotations

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of features (n, D) and (m, D), of at least two samples each; ValueError otherwise.

    With centred samples A, C_a = A^T A / (n - 1), the trace of the root is the sum of the singular
    values of A B^T / sqrt((n - 1)(m - 1)): no covariance is formed and no root of a negative number
    taken, so it is exact also for fewer samples than features, where covariances are singular.
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"features are {a.shape} and {b.shape}: expected two or more rows of one width"
        )
    A, B = _root(a), _root(b)
    means = np.square(a.mean(0) - b.mean(0)).sum()
    root = np.linalg.svd(A @ B.T, compute_uv=False).sum()
    # Rounding may leave less than nothing of equal sets.
    return max(0.0, float(means + np.square(A).sum() + np.square(B).sum() - 2 * root))


def _root(x: np.ndarray) -> np.ndarray:
    """A matrix R of at most D rows with R^T R the covariance."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return np.linalg.qr(centred, mode="r") if len(x) > x.shape[1] else centred
