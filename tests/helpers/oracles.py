"""Independent implementations, slow and plain."""

from __future__ import annotations

import math

import numpy as np


def feature_space_debiased(x, y):
    """Debiased CKA from feature covariances (Kornblith's published notebook form): no lines x lines matrix appears."""
    x, y = x - x.mean(0), y - y.mean(0)
    n = len(x)

    def hsic(a, b):
        rows_a, rows_b = (a**2).sum(1), (b**2).sum(1)
        return (
            np.linalg.norm(a.T @ b) ** 2
            - n / (n - 2) * (rows_a @ rows_b)
            + rows_a.sum() * rows_b.sum() / ((n - 1) * (n - 2))
        )

    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))
