"""Pairs and clusters: which items belong together, and their sums per cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def cluster_codes(clusters: Sequence[str] | None, n: int) -> tuple[np.ndarray, int]:
    """Code of the cluster of each item, [n] integers in order of first appearance, and the number of clusters.

    `None` or an empty sequence makes each item a cluster of its own. Raises ValueError where the lengths differ: a
    missing cluster must never become a silent singleton, which would shrink the standard error.
    """
    if clusters is None or len(clusters) == 0:
        return np.arange(n), n
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} clusters for {n} items")
    return _codes(tuple(clusters))


@lru_cache(maxsize=64)  # thousands of rows share the clusters of one corpus
def _codes(clusters: tuple[str, ...]) -> tuple[np.ndarray, int]:
    first: dict[str, int] = {}
    codes = np.fromiter(
        (first.setdefault(cluster, len(first)) for cluster in clusters), dtype=np.intp, count=len(clusters)
    )
    codes.flags.writeable = False
    return codes, len(first)


def cluster_sums(values: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """Sums of `values` [n] or [n, k] over the items of each cluster: [count] or [count, k], float64."""
    values = np.asarray(values, dtype=np.float64)
    if count == len(codes) and np.array_equal(codes, np.arange(count)):
        return values
    if values.ndim == 1:
        return np.bincount(codes, weights=values, minlength=count)
    return np.stack([np.bincount(codes, weights=column, minlength=count) for column in values.T], axis=1)
