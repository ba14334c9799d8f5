"""Many tests at once: adjusted p values and intervals adjusted for selection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def benjamini_hochberg(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p values [m] that control the false discovery rate: of the rows below alpha, at most a share alpha is
    false on average.

    Reference: Benjamini and Hochberg 1995. Assumes: valid p values that are independent or positively dependent (layers
    and languages of one model are). Fails: strong negative dependence (then Benjamini-Yekutieli), and where the family
    was chosen after looking.
    """
    p = _checked(p)
    m = len(p)
    order = np.argsort(p)[::-1]
    adjusted = np.empty(m)
    adjusted[order] = np.minimum.accumulate(p[order] * m / np.arange(m, 0, -1))
    return np.minimum(adjusted, 1.0)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p values [m] that control the chance of any false rejection, under any dependence.

    Reference: Holm 1979. Assumes valid p values only. Fails: never in size; its power falls with the size of the
    family.
    """
    p = _checked(p)
    m = len(p)
    order = np.argsort(p)
    adjusted = np.empty(m)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(m, 0, -1))
    return np.minimum(adjusted, 1.0)


def fcr_intervals(
    value: np.ndarray,
    se: np.ndarray,
    degrees_of_freedom: np.ndarray | float,
    selected: np.ndarray,
    *,
    alpha: float = 0.05,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends [number selected] of intervals for the rows of a family [m] that were selected by a test.

    Each interval has level 1 - alpha * (number selected) / m, so that of the intervals shown at most alpha miss their
    target on average. Reference: Benjamini and Yekutieli 2005 (false coverage rate), for selection by
    Benjamini-Hochberg at alpha. Assumes: independent or positively dependent estimates, the whole family in `value`.
    Fails: selection by anything not in the family.
    """
    value, se = np.asarray(value, dtype=np.float64), np.asarray(se, dtype=np.float64)
    selected = np.asarray(selected, dtype=bool)
    level = alpha * selected.sum() / len(value)
    half_width = stats.t.ppf(1 - level / 2, np.broadcast_to(degrees_of_freedom, value.shape)[selected]) * se[selected]
    return value[selected] - half_width, value[selected] + half_width


def _checked(p: Sequence[float] | np.ndarray) -> np.ndarray:
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():  # NaN fails this too
        raise ValueError("p values must be a list of numbers from 0 to 1")
    return p
