"""Cross-lingual retrieval among parallel lines: precision@1, mutual nearest neighbours (MEXA) and the ratio margin
(xsim).

Range 0 to 1. Chance: 1 / pool for precision@1, 1 / (2 pool - 1) for mutual nearest neighbours. All depend on the size
of the pool: numbers of different pools do not compare. Known failures: hubs (points near to everything; the ratio
margin divides them out), short duplicate sentences.

Right means: the line itself, or a line that has the same text on either side (a duplicate of the right answer is
right). A tie with a wrong line is never a hit, so a model that gives every sentence the same vector scores 0. Functions
take a similarity matrix and leave it unchanged.
References: Artetxe and Schwenk 2019 (margin), xsim of LASER, MEXA of Kargaran et al. 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignx_eval.measures.cosine import cosine_matrix

Accepted = tuple[np.ndarray, np.ndarray]
NONE_ACCEPTED: Accepted = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Hits:
    """bool [lines] each. forward: the row finds its line among the columns; backward: the column among the rows;
    mutual: both."""

    forward: np.ndarray
    backward: np.ndarray
    mutual: np.ndarray


def accepted_pairs(x_texts: Sequence[str], y_texts: Sequence[str]) -> Accepted:
    """(rows, columns) of the pairs i != j that are right too, since line j has the same text as line i in one of the
    two languages."""
    accepted: set[tuple[int, int]] = set()
    for texts in (x_texts, y_texts):
        same: dict[str, list[int]] = {}
        for line, text in enumerate(texts):
            same.setdefault(text, []).append(line)
        for lines in same.values():
            accepted.update((i, j) for i in lines for j in lines if i != j)
    if not accepted:
        return NONE_ACCEPTED
    rows, columns = np.array(sorted(accepted), dtype=np.int64).T
    return rows, columns


def hits(similarity: np.ndarray, accepted: Accepted = NONE_ACCEPTED) -> Hits:
    """Nearest-neighbour hits both ways of a similarity [lines, lines] whose diagonal holds the right pairs.

    `mutual.mean()` is the score of MEXA where no text is duplicated: the right pair is strictly the largest of its row
    and of its column.
    """
    rows, columns = accepted
    diagonal = np.diagonal(similarity)
    right_of_row, right_of_column = diagonal.copy(), diagonal.copy()
    np.maximum.at(right_of_row, rows, similarity[rows, columns])
    np.maximum.at(right_of_column, columns, similarity[rows, columns])
    wrong = similarity.copy()
    np.fill_diagonal(wrong, -np.inf)
    wrong[rows, columns] = -np.inf
    forward = right_of_row > wrong.max(axis=1)
    backward = right_of_column > wrong.max(axis=0)
    return Hits(forward, backward, forward & backward)


def precision_at_1(x: np.ndarray, y: np.ndarray, accepted: Accepted = NONE_ACCEPTED) -> float:
    """Share of the lines of `x` whose nearest neighbour among the lines of `y` by cosine is their own translation: 0 to
    1.

    x, y [lines, width], row i of both says the same thing. The other direction is `precision_at_1(y, x)`. Chance:
    `chance_precision`. Raises ValueError where the two have not the same number of lines, or none.
    """
    if len(x) != len(y) or not len(x):
        raise ValueError(f"precision@1 compares the same lines: got {len(x)} and {len(y)}")
    return float(hits(cosine_matrix(x, y), accepted).forward.mean())


def margin_hits(similarity: np.ndarray, accepted: Accepted = NONE_ACCEPTED, *, k: int = 4) -> np.ndarray:
    """Hits [lines] of rows among columns by the ratio margin, as xsim: of the k nearest columns the one with the
    largest cos / ((mean of the row's k nearest + mean of the column's k nearest) / 2)."""
    n = len(similarity)
    k = min(k, n)
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    top = np.take_along_axis(similarity, nearest, axis=1)
    columns_top = -np.partition(-similarity, k - 1, axis=0)[:k]
    with np.errstate(divide="ignore", invalid="ignore"):  # vectors without a direction; nan is no hit
        scores = top / ((top.mean(axis=1)[:, None] + columns_top.mean(axis=0)[nearest]) / 2)
    lines = np.arange(n)
    right = nearest == lines[:, None]
    if len(accepted[0]):
        keys = np.unique(accepted[0] * n + accepted[1])
        right |= np.isin(lines[:, None] * n + nearest, keys)
    best_right = np.where(right, scores, -np.inf).max(axis=1)
    best_wrong = np.where(right, -np.inf, scores).max(axis=1)
    return best_right > best_wrong


def chance_precision(lines: int, accepted: Accepted = NONE_ACCEPTED) -> float:
    """Expected precision@1 of a model that picks at random from the pool."""
    return (lines + len(accepted[0])) / lines**2


def chance_mutual(lines: int) -> float:
    """Expected share of mutual nearest neighbours for exchangeable similarities: the right pair is the largest of the 2
    n - 1 of its row and column."""
    return 1 / (2 * lines - 1)


def permuted_precision(similarity: np.ndarray, accepted: Accepted = NONE_ACCEPTED, *, axis: int = 1) -> float:
    """Mean precision@1 over all permutations of the pairing: the share of rows (axis 1) or columns (axis 0) with a
    unique maximum, over n."""
    n = len(similarity)
    largest = similarity.max(axis=axis, keepdims=True)
    unique = (similarity == largest).sum(axis=axis) == 1
    return float(unique.mean() * chance_precision(n, accepted))
