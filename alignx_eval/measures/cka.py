"""Linear centred kernel alignment between two representations of the same lines; debiased, and biased under its own
name.

Debiased CKA is HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)) with the unbiased HSIC of Song et al. 2012 (equation 4),
as used by Nguyen et al. 2021 and analysed by Murphy et al. 2024. HSIC_1 equals the inner product of U-centred matrices
(Szekely and Rizzo 2014), so here each Gram matrix is U-centred once and a debiased CKA is the cosine of two such
matrices: all pairs of a layer are one product.

Range -1 to 1; 1 for equal up to rotation, scale and translation; expectation 0 for unrelated representations, at any
width (so values below 0 are legal and are not clipped). Known failures: the biased form tends to 1 as width / lines
grows, even for noise; resampling lines with replacement duplicates rows and lifts the debiased form, so no bootstrap:
leave groups out instead; one dimension that encodes length is enough to look aligned.
At independence the statistic is degenerate: test by permutation there and give no interval.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


def number_groups(groups: np.ndarray | Sequence[Hashable]) -> np.ndarray:
    """int [lines]: the group of each line, numbered from 0 in the order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class CentredGram:
    """The U-centred Gram matrix of one representation, scaled to norm 1, and what leave-group-out values need of it.

    matrix [lines, lines] with lines in group order; group_sums [lines, groups]: each row's sum over the columns of a
    group; blocks [groups]: the sum within a group; leave_out_squares [groups]: HSIC_1 of the representation with itself
    without the group, up to the factor all share.
    """

    matrix: np.ndarray
    starts: np.ndarray  # first line of each group, in group order
    group_sums: np.ndarray | None  # None where every line is its own group: it would be the matrix again
    blocks: np.ndarray
    leave_out_squares: np.ndarray


def u_centred(vectors: np.ndarray) -> np.ndarray:
    """U-centred linear Gram matrix [lines, lines] (zero diagonal, rows summing to 0) of vectors [lines, width], at norm
    1, in their dtype.

    Raises ValueError for fewer than 4 lines and where the lines do not differ.
    """
    n = len(vectors)
    if n < 4:
        raise ValueError(f"debiased CKA needs at least 4 lines, got {n}")
    scale = np.abs(vectors).max()
    centred = vectors - vectors.mean(axis=0)  # HSIC does not see it; it keeps float32 products from cancelling
    spread = np.abs(centred).max()
    if not spread > 1e-6 * scale:
        raise ValueError("the representation is the same for every line, so CKA is undefined")
    centred = centred / spread
    gram = centred @ centred.T
    np.fill_diagonal(gram, 0)
    rows = gram.sum(axis=1, dtype=np.float64) / (n - 2)
    gram -= (rows[:, None] - rows.sum() / (2 * (n - 1))).astype(gram.dtype)
    gram -= (rows[None, :] - rows.sum() / (2 * (n - 1))).astype(gram.dtype)
    np.fill_diagonal(gram, 0)
    norm = math.sqrt(np.einsum("ij,ij->", gram, gram, dtype=np.float64))
    if not norm > 1e-6:
        raise ValueError("the lines differ in no more than one way, so debiased CKA is undefined")
    gram /= norm
    return gram


def centred_gram(vectors: np.ndarray, groups: np.ndarray | None = None) -> CentredGram:
    """`CentredGram` of vectors [lines, width]; groups int [lines] numbered from 0 (default: every line its own). Raises
    ValueError as `u_centred`."""
    groups = np.arange(len(vectors)) if groups is None else groups
    order = np.argsort(groups, kind="stable")
    count = int(groups.max()) + 1 if len(groups) else 0
    starts = np.searchsorted(groups[order], np.arange(count))
    matrix = u_centred(vectors[order])
    if count == len(groups):
        group_sums, blocks = None, np.zeros(count)
    else:
        group_sums = np.add.reduceat(matrix, starts, axis=1)
        blocks = np.diagonal(np.add.reduceat(group_sums, starts, axis=0)).astype(np.float64)
    gram = CentredGram(matrix, starts, group_sums, blocks, np.zeros(0))
    return CentredGram(matrix, starts, group_sums, blocks, _leave_out_products(gram, gram)[1])


def _leave_out_products(a: CentredGram, b: CentredGram) -> tuple[float, np.ndarray]:
    """(inner product of the matrices, N (N - 3) HSIC_1 without each group [groups], N being the lines that remain).

    HSIC_1 over the remaining lines is [sum K L + sum K sum L / ((N-1)(N-2)) - 2/(N-2) sum_i k_i l_i] / (N (N-3)) with
    row sums k, l. U-centred rows sum to 0, so the remaining row sums are minus the sums over the group's columns, and
    all is found without another pass per group.
    """
    n, count = len(a.matrix), len(a.starts)
    product = np.einsum("ij,ij->i", a.matrix, b.matrix, dtype=np.float64)
    total = float(product.sum())
    if a.group_sums is None or b.group_sums is None:
        remaining = np.full(count, n - 1)
        kept, rows = total - 2 * product, product
    else:
        sizes = np.diff(np.append(a.starts, n))
        remaining = n - sizes
        elementwise = np.add.reduceat(a.group_sums * b.group_sums, a.starts, axis=0, dtype=np.float64)
        rows = elementwise.sum(axis=0) - np.diagonal(elementwise)
        within = np.array(
            [
                np.einsum("ij,ij->", a.matrix[start:end, start:end], b.matrix[start:end, start:end], dtype=np.float64)
                for start, end in zip(a.starts, np.append(a.starts[1:], n), strict=True)
            ]
        )
        kept = total - 2 * np.add.reduceat(product, a.starts) + within
    if remaining.min() < 4:
        return total, np.full(count, np.nan)
    return total, kept + a.blocks * b.blocks / ((remaining - 1) * (remaining - 2)) - 2 / (remaining - 2) * rows


def debiased_cka_leave_out(a: CentredGram, b: CentredGram) -> tuple[float, np.ndarray]:
    """Debiased CKA of two representations of the same lines, and its values with each group left out [groups], in the
    order of the group numbers.

    Exactly what recomputing without the group's lines would give, at the price of one product. Raises ValueError where
    leaving a group out leaves fewer than 4 lines or lines that do not differ.
    """
    point, products = _leave_out_products(a, b)
    squares = a.leave_out_squares * b.leave_out_squares
    # Written so that nan fails too. Norms are 1 with all lines, so 1e-12 means that nothing was left.
    if not (squares > 1e-12).all():
        raise ValueError("leaving a group out leaves too few lines, or lines that do not differ")
    return point, products / np.sqrt(squares)


def debiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased linear CKA of x [lines, width] and y [lines, other width]. Raises ValueError where it is undefined."""
    if len(x) != len(y):
        raise ValueError(f"CKA compares the same lines: got {len(x)} and {len(y)}")
    return float(np.einsum("ij,ij->", u_centred(x), u_centred(y), dtype=np.float64))


def biased_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA of Kornblith et al. 2019 (biased HSIC); range 0 to 1. Not for claims or gates: noise of width d on n <
    d lines comes near
    1. Raises ValueError where it is undefined."""
    return biased_cka_with_null(x, y)[0]


def biased_cka_with_null(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Biased linear CKA of x [lines, width] and y [lines, other width], and its exact mean over all permutations of the
    lines of one side.

    The mean is tr K tr L / ((n - 1) |K| |L|) with centred Gram matrices K and L. Raises ValueError where CKA is
    undefined.
    """
    if len(x) != len(y):
        raise ValueError(f"CKA compares the same lines: got {len(x)} and {len(y)}")
    if len(x) < 2:
        raise ValueError(f"CKA needs at least 2 lines, got {len(x)}")
    grams, traces = [], []
    for vectors in (x, y):
        centred = vectors - vectors.mean(axis=0)
        if not np.abs(centred).max() > 1e-6 * np.abs(vectors).max():
            raise ValueError("the representation is the same for every line, so CKA is undefined")
        centred = centred / np.abs(centred).max()
        gram = centred @ centred.T
        gram = gram / math.sqrt(np.einsum("ij,ij->", gram, gram, dtype=np.float64))
        grams.append(gram)
        traces.append(float(np.trace(gram, dtype=np.float64)))
    return float(np.einsum("ij,ij->", *grams, dtype=np.float64)), traces[0] * traces[1] / (len(x) - 1)


def pack(matrix: np.ndarray) -> np.ndarray:
    """Upper triangle of a U-centred matrix [lines, lines] as float32 [lines (lines - 1) / 2]; inner products of packed
    matrices are half of theirs."""
    lines = len(matrix)
    return matrix[np.arange(lines)[:, None] < np.arange(lines)].astype(np.float32)


def debiased_cka_of_packed(packed: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Debiased CKA of every pair as one product: packed [k, ...] against itself or `others` [m, ...] -> float64 [k, k]
    or [k, m]; nan stays nan."""
    return 2 * (packed @ (packed if others is None else others).T).astype(np.float64)


def debiased_cka_matrix(vectors: np.ndarray) -> np.ndarray:
    """Debiased CKA of every pair of vectors [k, lines, width] -> float64 [k, k]; each Gram matrix is formed once.

    A representation whose CKA is undefined gives a row and a column of nan.
    """
    lines = vectors.shape[1]
    packed = np.full((len(vectors), lines * (lines - 1) // 2), np.nan, dtype=np.float32)
    for row, representation in enumerate(vectors):
        try:
            packed[row] = pack(u_centred(representation))
        except ValueError:
            continue
    return debiased_cka_of_packed(packed)


def null_standard_deviation(lines: int) -> float:
    """Standard deviation of debiased CKA over all permutations of the lines of one side: sqrt(2 / (n (n - 3))), for any
    two representations.

    (The mean over permutations is exactly 0. Both follow from rows that sum to 0: the second moment of sum A_ij
    B_p(i)p(j) has only the terms with two shared indices, one, and none, which add up to 2 |A|^2 |B|^2 / (n (n - 3)).)
    """
    return math.sqrt(2 / (lines * (lines - 3)))


def permutation_p_value(x: np.ndarray, y: np.ndarray, *, draws: int, generator: np.random.Generator) -> float:
    """One-sided p of "the lines of x and y are unrelated" for debiased CKA: (1 + draws at least as large) / (1 +
    draws). Valid at any n >= 4."""
    a, b = u_centred(x), u_centred(y)
    observed = np.einsum("ij,ij->", a, b, dtype=np.float64)
    larger = 0
    for _ in range(draws):
        order = generator.permutation(len(a))
        larger += int(np.einsum("ij,ij->", a, b[order][:, order], dtype=np.float64) >= observed - 1e-9)
    return (1 + larger) / (1 + draws)
