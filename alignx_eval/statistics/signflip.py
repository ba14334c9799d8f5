"""Randomization tests for paired results: flip the sign of a cluster's difference, or swap the two systems in a
cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from scipy import special

DEFAULT_DRAWS = 9_999
CHUNK = 2_000  # draws held in memory at once
TOLERANCE = 1e-10  # relative; makes ties of rounded sums ties, which count against the effect


def draws_for_family(rows: int, *, alpha: float = 0.05) -> int:
    """Draws that let the smallest p get below alpha / rows / 2, so that one strong row in a large family can survive
    the adjustment."""
    return max(DEFAULT_DRAWS, int(np.ceil(2 * rows / alpha)) - 1)


def mcnemar_exact(gains: int, losses: int) -> float:
    """Exact two-sided McNemar test from the numbers of items that only the candidate, and only the base, got right. 1
    where both are 0.

    Reference: McNemar 1947, binomial form. Assumes: independent items with a 0/1 outcome. Fails: clustered items, for
    which use `sign_flip_test`.
    """
    return min(1.0, 2 * float(special.bdtr(min(gains, losses), gains + losses, 0.5)))


def sign_flip_test(
    differences: np.ndarray, *, generator: np.random.Generator, draws: int = DEFAULT_DRAWS
) -> np.ndarray | float:
    """Two-sided p of "candidate and base are exchangeable within each cluster", for sums of paired differences.

    differences: [clusters] or [clusters, rows], the candidate's minus the base's values summed by cluster
    (`pairing.cluster_sums`). The statistic is the absolute total. Rows share one matrix of random signs, so a family
    costs one matrix product. Returns a float, or [rows].

    Clusters without a difference do not matter and are dropped. The p is exact where all differences have one magnitude
    (binomial: McNemar) or where all sign patterns are no more than `draws`; otherwise (b + 1) / (draws + 1) with b of
    the random totals at least as large, ties included. Reference: Fisher 1935; Phipson and Smyth 2010 for the + 1.
    Assumes: independent clusters whose differences are symmetric around 0 under the null; with many clusters a mean of
    0 suffices. Size is at most alpha. Fails: fewer than 6 clusters that differ cannot reach p < 0.05.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(differences).all():
        raise ValueError("differences must be finite")
    single = differences.ndim == 1
    if single:
        differences = differences[:, None]
    p = np.full(differences.shape[1], np.nan)
    scale = np.abs(differences).sum(axis=0)
    threshold = np.abs(differences.sum(axis=0)) - TOLERANCE * scale
    for row in range(differences.shape[1]):
        nonzero = differences[differences[:, row] != 0, row]
        magnitude = np.abs(nonzero)
        if len(nonzero) == 0 or magnitude.max() - magnitude.min() <= TOLERANCE * magnitude.max():
            p[row] = mcnemar_exact(int((nonzero > 0).sum()), int((nonzero < 0).sum()))
        elif _patterns(len(nonzero)) <= draws:
            p[row] = (np.abs(_all_signs(len(nonzero)) @ nonzero) >= threshold[row]).mean()
    drawn = np.flatnonzero(np.isnan(p))
    if len(drawn):
        reached = np.zeros(len(drawn))
        needed = np.ascontiguousarray(differences[:, drawn])
        for signs in _random_signs(len(differences), draws, generator):
            reached += (np.abs(signs @ needed) >= threshold[drawn]).sum(axis=0)
        p[drawn] = (reached + 1) / (draws + 1)
    return float(p[0]) if single else p


def swap_test(
    base: np.ndarray,
    candidate: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    generator: np.random.Generator,
    draws: int = DEFAULT_DRAWS,
) -> float:
    """Two-sided p of "candidate and base are exchangeable within each cluster", for a statistic of summed sufficient
    statistics.

    base, candidate: [clusters, k], sentence statistics summed by cluster; statistic: maps [..., k] to [...], for
    instance `bleu_from_statistics`. Each draw swaps the two systems in a random half of the clusters; the statistic is
    the absolute difference of the two pseudo systems. Exact where all swaps are no more than `draws`, otherwise (b + 1)
    / (draws + 1); ties count, so identical systems have p = 1.

    Reference: approximate randomization (Noreen 1989; Riezler and Maxwell 2005; Clark et al. 2011), as sacreBLEU's
    `--paired-ar`, which differs in not counting ties. Assumes: independent clusters. Fails: a handful of clusters.
    """
    base, candidate = np.asarray(base, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if not (np.isfinite(base).all() and np.isfinite(candidate).all()):
        raise ValueError("statistics must be finite")
    both = base.sum(axis=0) + candidate.sum(axis=0)
    difference = candidate - base
    difference = difference[(difference != 0).any(axis=1)]
    if len(difference) == 0:
        return 1.0
    exact = _patterns(len(difference)) <= draws
    batches = [_all_signs(len(difference))] if exact else _random_signs(len(difference), draws, generator)

    def gaps(signs: np.ndarray) -> np.ndarray:
        swapped = signs @ difference
        return np.abs(statistic((both + swapped) / 2) - statistic((both - swapped) / 2))

    observed = gaps(np.ones((1, len(difference))))[0]
    threshold = observed - TOLERANCE * max(observed, abs(float(statistic(both / 2))))
    reached = sum(int((gaps(signs) >= threshold).sum()) for signs in batches)
    return reached / _patterns(len(difference)) if exact else (reached + 1) / (draws + 1)


def _patterns(clusters: int) -> int:
    """Sign patterns up to a common sign, which a two-sided test does not see."""
    return 2 ** (clusters - 1)


@lru_cache(maxsize=32)
def _all_signs(clusters: int) -> np.ndarray:
    """All sign patterns with a positive last sign: [2 ** (clusters - 1), clusters]."""
    patterns = np.arange(_patterns(clusters))[:, None]
    return 1.0 - 2.0 * ((patterns >> np.arange(clusters)) & 1)


def _random_signs(clusters: int, draws: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Chunks of independent random signs [up to CHUNK, clusters], `draws` in all."""
    for start in range(0, draws, CHUNK):
        rows = min(CHUNK, draws - start)
        bits = np.unpackbits(
            generator.integers(0, 256, size=(rows, (clusters + 7) // 8), dtype=np.uint8), axis=1, count=clusters
        )
        yield 1.0 - 2.0 * bits
