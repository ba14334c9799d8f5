"""Per-item statistics of two checkpoints, side by side: their difference, its interval, its p value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from alignx_eval.results import Items, SuiteResult
from alignx_eval.statistics.clustered import Estimate, clustered_mean_difference, clustered_ratio_difference, t_test
from alignx_eval.statistics.corpus_metrics import bleu_from_statistics, chrf_from_statistics
from alignx_eval.statistics.jackknife import jackknife, leave_one_out
from alignx_eval.statistics.pairing import cluster_codes, cluster_sums
from alignx_eval.statistics.peak import peak, peak_difference
from alignx_eval.statistics.signflip import swap_test


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


# From sums of per-item statistics [..., k] to the statistic [...].
STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": _ratio,  # of the sum and the number of items
    "ratio": _ratio,
    "bleu": bleu_from_statistics,  # type: ignore[dict-item]
    "chrf": chrf_from_statistics,  # type: ignore[dict-item]
}


def clusters_of(key: str, result: SuiteResult, items: Items) -> tuple[str, ...]:
    """Clusters of a row's items; empty where each item is its own. The groups of a jackknife are clusters already."""
    if items.kind == "jackknife":
        return ()
    clusters = tuple(result.clusters.get(key, result.default_clusters))
    if clusters and len(clusters) != len(items.values):
        raise ValueError(f"{key}: {len(clusters)} clusters for {len(items.values)} items")
    return clusters


def point_of(items: Items) -> float:
    """The statistic of all items."""
    if items.kind == "jackknife":
        return float("nan") if items.point is None else float(items.point)
    values = np.asarray(items.values, dtype=np.float64)
    if items.kind == "peak":
        return float(peak(values))
    return float(values.mean()) if items.kind == "mean" else float(STATISTICS[items.kind](values.sum(axis=0)))


@dataclass(frozen=True, slots=True)
class PairedItems:
    """Items of a base and a candidate, of the same kind and shape, and the cluster of each item (empty: each its
    own)."""

    base: Items
    candidate: Items
    clusters: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return self.base.kind

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Sufficient statistics of both sides summed by cluster, [clusters, k] each."""
        codes, count = cluster_codes(self.clusters, len(self.base.values))
        sides = []
        for side in (self.base, self.candidate):
            values = np.asarray(side.values, dtype=np.float64)
            if self.kind == "mean":
                values = np.stack([values, np.ones(len(values))], axis=1)
            sides.append(cluster_sums(values, codes, count))
        return sides[0], sides[1]

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """The statistic of (base, candidate), [2], and with one cluster left out each, [2, clusters]."""
        if self.kind == "jackknife":
            sides = [
                (point_of(side), np.asarray(side.values, dtype=np.float64)) for side in (self.base, self.candidate)
            ]
        else:
            sides = [leave_one_out(side, STATISTICS[self.kind]) for side in self.sums()]
        return np.array([side[0] for side in sides]), np.stack([side[1] for side in sides])

    def difference(self) -> Estimate:
        """Candidate - base. Cluster-robust standard error for means and ratios, a bootstrap for peaks, delete-a-cluster
        jackknife for the others."""
        base, candidate = (np.asarray(side.values, dtype=np.float64) for side in (self.base, self.candidate))
        if self.kind == "mean":
            return clustered_mean_difference(base, candidate, self.clusters)
        if self.kind == "ratio":
            return clustered_ratio_difference(base, candidate, self.clusters)
        if self.kind == "peak":
            return peak_difference(base, candidate, self.clusters)
        points, left_out = self.left_out()
        # The groups of jackknife items are given without their sizes.
        sizes = None if self.kind == "jackknife" else np.bincount(cluster_codes(self.clusters, len(base))[0])
        return jackknife(points[1] - points[0], left_out[1] - left_out[0], sizes=sizes, n=len(base))

    def cluster_differences(self) -> np.ndarray | None:
        """Differences summed by cluster, [clusters], where the statistic is a plain sum of them up to a factor; else
        None.

        So for means, and for ratios with one denominator on both sides (bytes, for instance), where plain sign flips
        are the swap test.
        """
        if self.kind == "mean" or (
            self.kind == "ratio" and np.array_equal(self.base.values[:, 1], self.candidate.values[:, 1])
        ):
            base, candidate = self.sums()
            return candidate[:, 0] - base[:, 0]
        return None

    def p(self, se: float, *, generator: np.random.Generator, draws: int) -> tuple[float, str]:
        """Two-sided p and the name of the test, where sign flips do not apply. A jackknife leaves nothing to swap: a t
        test."""
        if self.kind == "jackknife":
            estimate = self.difference()
            return t_test(estimate.value, se, float(estimate.degrees_of_freedom or 1), estimate.skewness), "t test"
        p = swap_test(*self.sums(), STATISTICS[self.kind], generator=generator, draws=draws)
        return p, f"swaps of clusters, at most {draws} draws"
