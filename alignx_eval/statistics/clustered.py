"""Means and ratios of clustered items, with cluster-robust standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from alignx_eval.statistics.pairing import cluster_codes, cluster_sums


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its uncertainty. `se`, `ci_low`, `ci_high` are None where fewer than two clusters leave them undefined."""

    value: float
    se: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    clusters: int
    method: str


def t_interval(value: float, se: float, clusters: int, alpha: float = 0.05) -> tuple[float, float]:
    """Two-sided interval `value` +- t(clusters - 1) * `se` at level 1 - `alpha`."""
    half_width = float(special.stdtrit(clusters - 1, 1 - alpha / 2)) * se
    return value - half_width, value + half_width


def t_test(value: float, se: float, clusters: int) -> float:
    """Two-sided p of "the true value is 0" on clusters - 1 degrees of freedom; 1 where value and se are both 0."""
    if se == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * special.stdtr(clusters - 1, -abs(value) / se))


def clustered_mean(values: np.ndarray, clusters: Sequence[str] | None = None, *, alpha: float = 0.05) -> Estimate:
    """Mean of `values` [n] with its cluster-robust standard error and t interval on (clusters - 1) degrees of freedom.

    For a paired difference pass candidate - base. Reference: Liang and Zeger 1986 with the correction G / (G - 1), i.e. ordinary least
    squares on a constant with clustered covariance; with one item a cluster it is the usual s / sqrt(n). Assumes independent clusters;
    within a cluster anything goes. Fails: few clusters (under about 30) of very different size, where the interval is too short, and
    values that are all equal, where the standard error is 0 and says nothing.
    """
    values = np.asarray(values, dtype=np.float64)
    return _linear_estimate(
        float(values.mean()), values - values.mean(), len(values), clusters, alpha, "mean, cluster-robust standard error"
    )


def clustered_ratio(values: np.ndarray, clusters: Sequence[str] | None = None, *, alpha: float = 0.05) -> Estimate:
    """sum(numerator) / sum(denominator) of `values` [n, 2], with the standard error of its linearisation.

    Reference: Cochran, Sampling Techniques, 1977, section 6.3 (Taylor linearisation), summed by cluster. Assumes: independent clusters, a
    denominator whose sum varies little (coefficient of variation under about 10 %). Fails: otherwise; there use the jackknife.
    """
    point, influence = ratio_influence(values)
    return _linear_estimate(
        point, influence * len(influence), len(influence), clusters, alpha, "ratio, linearised cluster-robust standard error"
    )


def clustered_ratio_difference(
    base: np.ndarray, candidate: np.ndarray, clusters: Sequence[str] | None = None, *, alpha: float = 0.05
) -> Estimate:
    """Candidate's ratio - base's ratio over the same items ([n, 2] each), paired by item. See `clustered_ratio`."""
    base_point, base_influence = ratio_influence(base)
    point, influence = ratio_influence(candidate)
    influence = (influence - base_influence) * len(influence)
    method = "difference of ratios, linearised cluster-robust standard error"
    return _linear_estimate(point - base_point, influence, len(influence), clusters, alpha, method)


def ratio_influence(values: np.ndarray) -> tuple[float, np.ndarray]:
    """The ratio sum / sum of `values` [n, 2], and what each item adds to it to first order, [n].

    That is (numerator - ratio * denominator) / sum(denominator); the sum over items is 0.
    """
    values = np.asarray(values, dtype=np.float64)
    numerator, denominator = values.sum(axis=0)
    if denominator == 0:
        raise ValueError("the ratio's denominator is 0")
    ratio = float(numerator / denominator)
    return ratio, (values[:, 0] - ratio * values[:, 1]) / denominator


def _linear_estimate(value: float, residuals: np.ndarray, n: int, clusters: Sequence[str] | None, alpha: float, method: str) -> Estimate:
    """Estimate with Var = G / (G - 1) * sum over clusters of (sum of residuals)^2 / n^2."""
    if not (np.isfinite(value) and np.isfinite(residuals).all()):
        raise ValueError("values must be finite")
    codes, count = cluster_codes(clusters, n)
    if count < 2:
        return Estimate(value, None, None, None, n, count, method)
    sums = cluster_sums(residuals, codes, count)
    se = float(np.sqrt(count / (count - 1) * (sums**2).sum()) / n)
    low, high = t_interval(value, se, count, alpha)
    return Estimate(value, se, low, high, n, count, f"{method}, t({count - 1}) interval")
