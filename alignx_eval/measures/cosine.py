"""Cosine similarity of parallel sentences: raw, centred per language, and standardised against random pairs.

Range -1 to 1 (standardised: in standard deviations of random pairs). Chance level of the raw cosine: none; the mean
over wrong pairs has to be shown beside it. Known failures: in an anisotropic space unrelated sentences reach 0.99 raw,
and a constant offset per language hides identical content from the raw cosine (centring per language mends both); one
huge dimension decides everything (see `largest_dimensions`). Reference: Ethayarajh 2019; Timkey and van Schijndel 2021.
"""

from __future__ import annotations

import numpy as np


def centre(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., lines, width] minus their mean over lines: removes what all sentences of a language share."""
    return vectors - vectors.mean(axis=-2, keepdims=True)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., width] at length 1; a zero vector stays zero and so has cosine 0 with everything (`has_direction`
    tells)."""
    length = np.sqrt(np.vecdot(vectors, vectors))[
        ..., None
    ]  # np.linalg.norm makes a copy of the vectors, and takes 4 times as long
    return vectors / np.where(length > 0, length, 1)


def has_direction(centred: np.ndarray, raw: np.ndarray) -> bool:
    """Whether no row of `centred` [lines, width] is zero up to rounding, measured against the length of the same rows
    in `raw`."""
    return bool((np.linalg.norm(centred, axis=1) > 1e-6 * np.linalg.norm(raw, axis=1)).all() and raw.any(axis=1).all())


def cosine_matrix(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """cos(x_i, y_j) as [lines of x, lines of y]; inputs [lines, width] are not changed."""
    return unit(x) @ unit(y).T


def paired_cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """cos(x_i, y_i) as [lines]."""
    return np.einsum("id,id->i", unit(x), unit(y))


def wrong_pair_mean(similarity: np.ndarray) -> float:
    """Mean of a square similarity matrix off its diagonal.

    This is exactly the mean that the paired similarity has over all pairings in which every line meets a wrong partner.
    """
    n = len(similarity)
    return float((similarity.sum(dtype=np.float64) - np.trace(similarity, dtype=np.float64)) / (n * (n - 1)))


def standardised(similarity: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean similarity of right pairs in standard deviations of wrong pairs, and its leave-group-out values.

    similarity [lines, lines]; groups int [lines], numbered from 0. Returns (z, [groups]) with z = (mean diagonal - mean
    off it) / standard deviation off it; the second holds the same with one group's rows and columns left out, from sums
    alone. Raises ValueError where wrong pairs do not vary.
    """
    n, count = len(similarity), int(groups.max()) + 1
    diagonal = np.diagonal(similarity).astype(np.float64)
    sums = []  # (total off the diagonal, the same without each group) of the similarity and of its square
    for power in (1, 2):
        matrix = similarity**power
        rows = np.bincount(groups, matrix.sum(axis=1, dtype=np.float64), count)
        columns = np.bincount(groups, matrix.sum(axis=0, dtype=np.float64), count)
        blocks = _block_sums(matrix, groups, count)
        total = matrix.sum(dtype=np.float64)
        on = diagonal**power
        without = total - rows - columns + blocks
        sums.append((total - on.sum(), without - (on.sum() - np.bincount(groups, on, count))))
    sizes = np.bincount(groups, minlength=count)

    def z(right: np.ndarray, first: np.ndarray, second: np.ndarray, lines: np.ndarray) -> np.ndarray:
        pairs = np.maximum(lines * (lines - 1), 1)  # without a pair both sums are 0, and so is the variance
        mean = first / pairs
        variance = second / pairs - mean**2
        # Rounding of float32 similarities leaves a variance of about 1e-14 where there is none.
        if np.any(variance <= 1e-12):
            raise ValueError("wrong pairs do not vary, so there is nothing to standardise by")
        return (right / lines - mean) / np.sqrt(variance)

    point = z(np.array([diagonal.sum()]), np.array([sums[0][0]]), np.array([sums[1][0]]), np.array([n]))
    leave_out = z(diagonal.sum() - np.bincount(groups, diagonal, count), sums[0][1], sums[1][1], n - sizes)
    return float(point[0]), leave_out


def _block_sums(matrix: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Sum of matrix[i, j] over i and j both in a group, for each group: [groups]."""
    if count == len(groups):
        return np.diagonal(matrix)[np.argsort(groups)].astype(np.float64)
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(count))
    rows = np.add.reduceat(matrix[order], starts, axis=0, dtype=np.float64)
    return np.diagonal(np.add.reduceat(rows[:, order], starts, axis=1)).copy()


def largest_dimensions(*vectors: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the `count` dimensions with the largest mean square over all given arrays [lines, width], largest
    first."""
    energy = sum((array.astype(np.float64) ** 2).mean(axis=0) for array in vectors)
    return np.argsort(-np.asarray(energy), kind="stable")[:count]


def largest_dimension_share(vectors: np.ndarray, count: int = 3) -> float:
    """Share of the squared length of vectors [lines, width] that lies in their `count` largest dimensions; 0 to 1."""
    energy = np.sort((vectors.astype(np.float64) ** 2).mean(axis=0))[::-1]
    return float(energy[:count].sum() / energy.sum()) if energy.any() else 0.0
