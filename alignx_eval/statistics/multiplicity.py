"""Many tests at once: adjusted p values."""

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
    return np.asarray(stats.false_discovery_control(_checked(p)))


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


def _checked(p: Sequence[float] | np.ndarray) -> np.ndarray:
    p = np.asarray(p, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():  # NaN fails this too
        raise ValueError("p values must be a list of numbers from 0 to 1")
    return p
