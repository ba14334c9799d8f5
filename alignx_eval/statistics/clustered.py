"""Means and ratios of clustered items: cluster-robust standard errors, intervals and one-sided p values that heed
skewness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from alignx_eval.statistics.pairing import cluster_codes, cluster_sums

# Agresti and Coull's four: added to 0/1 outcomes, so that few events, or none, still have a standard error.
PSEUDO_ITEMS = 4


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its uncertainty. `se`, the interval and `degrees_of_freedom` are None where fewer than two clusters
    leave them undefined.

    `skewness` is that of the sampling distribution of the value; with `value`, `se` and `degrees_of_freedom` it makes
    any further bound or p value (`lower_bound`, `one_sided_p`). Of -value it is -skewness.
    """

    value: float
    se: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    clusters: int
    method: str
    degrees_of_freedom: float | None = None
    skewness: float = 0.0


def one_sided_p(value: float, margin: float, se: float, degrees_of_freedom: float, skewness: float = 0.0) -> float:
    """p of "the true value is at most `margin`": a t test with the standard error that holds at the margin.

    The mean and the variance of a skewed sample go together, Cov(mean, s^2) = third moment / n. So if the truth lies a
    distance d below the value, the variance there is not se^2 but se^2 - skewness * se * d: larger for a long tail to
    the left, where events were few for all they may become. For a count this is the score test (for a proportion,
    Wilson's). Only an enlargement is used, since the skewness of few clusters is a rough estimate. Without spread (se
    0): 0 where the value is above the margin, else 1.

    References: Johnson, Modified t tests and confidence intervals for asymmetrical populations, 1978 (for the
    covariance); Wilson 1927. Assumes an estimate that is a sum of small independent contributions of clusters. Fails:
    fewer than about 50 clusters with strongly skewed values (skewness 2), where a nominal 5 % is 6 to 8 %.
    """
    if se == 0:
        return 0.0 if value > margin else 1.0
    t = (value - margin) / se
    return float(special.stdtr(degrees_of_freedom, -t / math.sqrt(1 + max(0.0, -skewness * t))))


def lower_bound(
    value: float, se: float, degrees_of_freedom: float, skewness: float = 0.0, *, alpha: float = 0.05
) -> float:
    """One-sided lower confidence bound of the true value at level 1 - `alpha` (0 < alpha < 0.5): above a margin exactly
    where `one_sided_p` is below alpha. For an upper bound of x give -x and -skewness, and turn the sign."""
    t, tail = float(special.stdtrit(degrees_of_freedom, 1 - alpha)), max(0.0, -skewness)
    return value - se * t * (t * tail / 2 + math.sqrt(1 + (t * tail / 2) ** 2))


def t_interval(
    value: float, se: float, degrees_of_freedom: float, skewness: float = 0.0, *, alpha: float = 0.05
) -> tuple[float, float]:
    """Two-sided interval at level 1 - `alpha`: the two one-sided bounds at alpha / 2; value +- t * se where nothing is
    skewed."""
    return (
        lower_bound(value, se, degrees_of_freedom, skewness, alpha=alpha / 2),
        -lower_bound(-value, se, degrees_of_freedom, -skewness, alpha=alpha / 2),
    )


def t_test(value: float, se: float, degrees_of_freedom: float, skewness: float = 0.0) -> float:
    """Two-sided p of "the true value is 0": twice the smaller one-sided p; 1 where value and se are both 0."""
    if se == 0:
        return 1.0 if value == 0 else 0.0
    tails = (
        one_sided_p(value, 0.0, se, degrees_of_freedom, skewness),
        one_sided_p(-value, 0.0, se, degrees_of_freedom, -skewness),
    )
    return min(1.0, 2 * min(tails))


def effective_clusters(sizes: np.ndarray) -> float:
    """Effective number of clusters of `sizes` [clusters] (items in each): (sum of m^2)^2 / sum of m^4; their number
    where all are equal.

    Reference: Carter, Schnepel and Steigerwald 2017, at their worst case, that a cluster moves as one. The variance
    estimate has that many degrees of freedom, less one (Satterthwaite's approximation); the number of clusters
    overstates them where sizes are uneven.
    """
    squares = np.asarray(sizes, dtype=np.float64) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def skewness_of_sum(contributions: np.ndarray) -> float:
    """Skewness of the sum of independent `contributions` [clusters] with mean 0, corrected for small numbers; 0 for
    fewer than 3.

    The sum of third moments / (sum of variances)^1.5 (cumulants of a sum add up), with the usual factors G^2 / ((G - 1)
    (G - 2)) and G / (G - 1) of the third and second moment.
    """
    count = len(contributions)
    scale = float(np.abs(contributions).max(initial=0.0))
    if count < 3 or scale == 0:
        return 0.0
    scaled = contributions / scale  # so that no power of it underflows
    variance = count / (count - 1) * float((scaled**2).sum())
    return count**2 / ((count - 1) * (count - 2)) * float((scaled**3).sum()) / variance**1.5


def clustered_mean(values: np.ndarray, clusters: Sequence[str] | None = None, *, alpha: float = 0.05) -> Estimate:
    """Mean of `values` [n] with its cluster-robust standard error and interval.

    Reference: Liang and Zeger 1986 with the correction G / (G - 1), i.e. ordinary least squares on a constant with
    clustered covariance; with one item a cluster it is the usual s / sqrt(n). The degrees of freedom are those of
    `effective_clusters`, less one; the ends of the interval heed skewness (`one_sided_p`).

    Values that are all -1, 0 or 1 are outcomes: their variance is that with `PSEUDO_ITEMS` more items, half of them
    each way, scaled by the design effect of the clusters (Agresti and Coull 1998). So a rate of which no event was seen
    has an interval of about 4 / clusters instead of none.

    Assumes independent clusters; within a cluster anything goes. Fails: fewer than about 30 clusters with skewed
    values; values other than outcomes that are all equal, where the standard error is 0 and says nothing. For a paired
    difference see `clustered_mean_difference`.
    """
    values = np.asarray(values, dtype=np.float64)
    unit = float(_are_outcomes(values))
    return _linear_estimate(
        float(values.mean()), values - values.mean(), clusters, alpha, "mean, cluster-robust standard error", unit
    )


def clustered_mean_difference(
    base: np.ndarray, candidate: np.ndarray, clusters: Sequence[str] | None = None, *, alpha: float = 0.05
) -> Estimate:
    """Candidate's mean - base's mean over the same items ([n] each), paired by item. See `clustered_mean`.

    The pseudo-items of outcomes (for paired proportions Agresti and Min 2005; Bonett and Price 2012) are added where
    the items of both sides are outcomes. The differences alone do not tell: those of a model to itself are all 0,
    whatever was measured, and for anything but outcomes the standard error is then 0.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (base, candidate)]
    values = sides[1] - sides[0]
    unit = float(all(_are_outcomes(side) for side in sides))
    method = "mean, cluster-robust standard error"
    return _linear_estimate(float(values.mean()), values - values.mean(), clusters, alpha, method, unit)


def _are_outcomes(values: np.ndarray) -> bool:
    return bool(np.isin(values, (-1, 0, 1)).all())


def clustered_ratio(values: np.ndarray, clusters: Sequence[str] | None = None, *, alpha: float = 0.05) -> Estimate:
    """sum(numerator) / sum(denominator) of `values` [n, 2], with the standard error of its linearisation.

    Reference: Cochran, Sampling Techniques, 1977, section 6.3 (Taylor linearisation), summed by cluster; the rest as
    `clustered_mean`, also for outcomes (numerator and denominator both 0 or 1). Assumes: independent clusters, a
    denominator whose sum varies little (coefficient of variation under about 10 %). Fails: otherwise; there use the
    jackknife.
    """
    values = np.asarray(values, dtype=np.float64)
    point, influence = ratio_influence(values)
    unit = len(values) / float(values[:, 1].sum()) if np.isin(values, (0, 1)).all() else 0.0
    return _linear_estimate(
        point, influence * len(values), clusters, alpha, "ratio, linearised cluster-robust standard error", unit
    )


def clustered_ratio_difference(
    base: np.ndarray, candidate: np.ndarray, clusters: Sequence[str] | None = None, *, alpha: float = 0.05
) -> Estimate:
    """Candidate's ratio - base's ratio over the same items ([n, 2] each), paired by item. See `clustered_ratio`."""
    sides = [np.asarray(side, dtype=np.float64) for side in (base, candidate)]
    (base_point, base_influence), (point, influence) = (ratio_influence(side) for side in sides)
    outcomes = all(np.isin(side, (0, 1)).all() for side in sides)
    unit = len(influence) / min(float(side[:, 1].sum()) for side in sides) if outcomes else 0.0
    method = "difference of ratios, linearised cluster-robust standard error"
    return _linear_estimate(
        point - base_point, (influence - base_influence) * len(influence), clusters, alpha, method, unit
    )


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


def _linear_estimate(
    value: float, residuals: np.ndarray, clusters: Sequence[str] | None, alpha: float, method: str, unit: float
) -> Estimate:
    """Estimate with Var = G / (G - 1) * sum over clusters of (sum of residuals)^2 / n^2.

    unit: what one outcome moves the sum of residuals by, where the items are outcomes, else 0.
    """
    n = len(residuals)
    if not (np.isfinite(value) and np.isfinite(residuals).all()):
        raise ValueError("values must be finite")
    codes, count = cluster_codes(clusters, n)
    if count < 2:
        return Estimate(value, None, None, None, n, count, method)
    sums = cluster_sums(residuals, codes, count)
    variance = count / (count - 1) * float((sums**2).sum())
    skewness = skewness_of_sum(sums)
    if unit:
        independent = float((residuals**2).sum())
        # The design effect; where nothing varies, each cluster may as well move as one.
        design_effect = max(1.0, variance / independent) if independent > 0 else n / count
        added = PSEUDO_ITEMS * unit**2 * design_effect
        skewness *= (variance / (variance + added)) ** 1.5
        variance += added
        method += f" with {PSEUDO_ITEMS} pseudo-items"
    se = math.sqrt(variance) / n
    freedom = effective_clusters(np.bincount(codes)) - 1
    low, high = t_interval(value, se, freedom, skewness, alpha=alpha)
    return Estimate(
        value,
        se,
        low,
        high,
        n,
        count,
        f"{method}, t({freedom:.4g}) interval, corrected for skewness",
        freedom,
        skewness,
    )
