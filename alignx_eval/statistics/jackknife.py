"""Delete-a-group jackknife: intervals for statistics that are not means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from alignx_eval.statistics.clustered import Estimate, effective_clusters, skewness_of_sum, t_interval


def jackknife(
    point: float, left_out: np.ndarray, *, sizes: np.ndarray | None = None, n: int | None = None, alpha: float = 0.05
) -> Estimate:
    """Estimate of a statistic from `left_out` [groups], its values with one group (line or document) left out each.

    For a paired difference pass the difference of the points and of the left-out values, group by group. `sizes`
    [groups]: items in each group, for the degrees of freedom (`effective_clusters`, less one); without it groups of one
    size are assumed. Reference: Tukey 1958; Efron and Stein 1981; centred at the point (no bias correction), ends
    corrected for skewness (`clustered.one_sided_p`).

    Assumes: independent groups, a smooth statistic. Fails: non-smooth statistics (medians, ranks); debiased CKA of
    independent representations, which is degenerate (use a permutation test there). Differences of debiased CKA on a
    small sample of wide vectors are nearly so: there the interval is too long, never too short. The bootstrap is no
    substitute: it repeats rows, and repeated rows look aligned.
    """
    left_out = np.asarray(left_out, dtype=np.float64)
    groups = len(left_out)
    n = groups if n is None else n
    if not (np.isfinite(point) and np.isfinite(left_out).all()):
        raise ValueError("values must be finite")
    if groups < 2:
        return Estimate(float(point), None, None, None, n, groups, "delete-a-group jackknife")
    # Differences to the first value make equal values give exactly 0, which differences to a rounded mean do not.
    centred = left_out - left_out[0]
    centred = centred - centred.mean()
    se = float(np.sqrt((groups - 1) / groups * (centred**2).sum()))
    skewness = skewness_of_sum(-centred)  # without a group the statistic falls by what the group adds
    freedom = (groups if sizes is None else effective_clusters(sizes)) - 1
    low, high = t_interval(float(point), se, freedom, skewness, alpha=alpha)
    method = f"delete-a-group jackknife, t({freedom:.4g}) interval, corrected for skewness"
    return Estimate(float(point), se, low, high, n, groups, method, freedom, skewness)


def leave_one_out(
    cluster_statistics: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, np.ndarray]:
    """A statistic of summed sufficient statistics, and its values with one cluster left out each.

    cluster_statistics: [clusters, k], the sums of each cluster (see `pairing.cluster_sums`); statistic: maps [..., k]
    to [...], for instance `bleu_from_statistics`. Returns the full value and [clusters].
    """
    cluster_statistics = np.asarray(cluster_statistics, dtype=np.float64)
    total = cluster_statistics.sum(axis=0)
    return float(statistic(total)), np.asarray(statistic(total - cluster_statistics))
