"""Where a curve of means has its maximum, and how sure that place is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignx_eval.statistics.clustered import Estimate
from alignx_eval.statistics.pairing import cluster_codes, cluster_sums

DRAWS = 2000
METHOD = "percentile interval of {draws} bootstrap draws of clusters, pool fixed"


def peak(values: np.ndarray) -> int:
    """Column of the largest mean of `values` [items, columns]; the first one on a tie."""
    return int(np.argmax(np.asarray(values, dtype=np.float64).sum(axis=0)))


def peak_interval(
    values: np.ndarray, clusters: Sequence[str] | None, *, seed: int = 0, draws: int = DRAWS, alpha: float = 0.05
) -> Estimate:
    """`peak` of `values` [items, columns] with an interval, in columns. No standard error: a place among a few columns
    has no t interval.

    Clusters are drawn with replacement, which is valid for means of outcomes that are fixed beforehand (hits of queries
    in a pool that stays as it is), and for nothing that is computed from pairs of drawn lines. The percentile interval
    is that of Efron 1979; ends are whole columns, and columns that tie in a draw all count. Assumes one maximum; of
    columns with the same true mean it holds most.
    """
    sums = _sums(values, clusters)
    if len(sums) < 2:
        return Estimate(float(peak(values)), None, None, None, len(values), len(sums), METHOD.format(draws=draws))
    first, last = _ends(_weights(len(sums), draws, seed) @ sums)
    return _estimate(peak(values), first, last, len(values), len(sums), draws, alpha)


def peak_difference(
    base: np.ndarray,
    candidate: np.ndarray,
    clusters: Sequence[str] | None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    alpha: float = 0.05,
) -> Estimate:
    """Peak of `candidate` - peak of `base` (values [items, columns] of the same items), as `peak_interval`: both see
    the same draws."""
    both = [_sums(values, clusters) for values in (base, candidate)]
    value = peak(candidate) - peak(base)
    if len(both[0]) < 2:
        return Estimate(float(value), None, None, None, len(base), len(both[0]), METHOD.format(draws=draws))
    weights = _weights(len(both[0]), draws, seed)
    if np.array_equal(both[0], both[1]):  # the same curve: not even a tie can set it apart from itself
        zero = np.zeros(draws)
        return _estimate(value, zero, zero, len(base), len(both[0]), draws, alpha)
    (base_first, base_last), (first, last) = (_ends(weights @ side) for side in both)
    return _estimate(value, first - base_last, last - base_first, len(base), len(both[0]), draws, alpha)


def _sums(values: np.ndarray, clusters: Sequence[str] | None) -> np.ndarray:
    return cluster_sums(values, *cluster_codes(clusters, len(values)))


def _weights(clusters: int, draws: int, seed: int) -> np.ndarray:
    """How often each cluster is drawn, [draws, clusters]."""
    return (
        np.random.default_rng(seed)
        .multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
        .astype(np.float64)
    )


def _ends(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last column that holds the maximum of each of `curves` [draws, columns]."""
    highest = curves >= curves.max(axis=1, keepdims=True) - 1e-9 * np.abs(curves).max(initial=1)
    return highest.argmax(axis=1), curves.shape[1] - 1 - highest[:, ::-1].argmax(axis=1)


def _estimate(
    value: int, first: np.ndarray, last: np.ndarray, n: int, clusters: int, draws: int, alpha: float
) -> Estimate:
    low = np.quantile(first, alpha / 2, method="lower")
    high = np.quantile(last, 1 - alpha / 2, method="higher")
    # A sample whose own peak is rare among the draws still has its peak in its interval.
    return Estimate(
        float(value), None, float(min(low, value)), float(max(high, value)), n, clusters, METHOD.format(draws=draws)
    )
