"""Where a curve peaks, and the interval of that place."""

from __future__ import annotations

import numpy as np
import pytest

from alignx_eval.comparison.paired_items import PairedItems, point_of
from alignx_eval.results import Items
from alignx_eval.statistics.peak import peak, peak_difference, peak_interval


def hits(generator, rates, lines):
    """Outcomes [lines, layers] whose rates are `rates`, correlated within a line as those of neighbouring layers
    are."""
    ease = generator.random((lines, 1))
    return ((0.5 * ease + 0.5 * generator.random((lines, len(rates)))) < np.asarray(rates)).astype(float)


def test_peak_is_the_first_largest_mean():
    assert peak(np.array([[0, 1, 1], [1, 1, 1]])) == 1
    assert peak(np.zeros((3, 4))) == 0


def test_equals_a_bootstrap_drawn_line_by_line():
    generator = np.random.default_rng(0)
    values = hits(generator, [0.2, 0.5, 0.55, 0.52, 0.1], 60)
    clusters = tuple(f"document {line // 3}" for line in range(60))
    members = [np.arange(start, start + 3) for start in range(0, 60, 3)]
    drawn = [peak(values[np.concatenate([members[c] for c in generator.integers(0, 20, 20)])]) for _ in range(4000)]
    found = peak_interval(values, clusters)
    assert (found.ci_low, found.ci_high) == (
        np.quantile(drawn, 0.025, method="lower"),
        np.quantile(drawn, 0.975, method="higher"),
    )
    assert (found.value, found.n, found.clusters, found.se) == (peak(values), 60, 20, None)


def test_interval_covers_the_true_peak():
    generator = np.random.default_rng(1)
    rates = [0.30, 0.40, 0.46, 0.50, 0.47, 0.35]
    covered = [
        found.ci_low <= 3 <= found.ci_high
        for found in (peak_interval(hits(generator, rates, 200), None, draws=400) for _ in range(400))
    ]
    assert np.mean(covered) >= 0.93  # 95 % less two standard errors of 400 runs


def test_interval_of_the_difference_covers_and_is_paired():
    generator = np.random.default_rng(2)
    covered = []
    for _ in range(300):
        both = hits(generator, [0.30, 0.45, 0.50, 0.46, 0.35, 0.30, 0.40, 0.46, 0.52, 0.46], 200)
        found = peak_difference(both[:, :5], both[:, 5:], None, draws=400)
        covered.append(found.ci_low <= 1 <= found.ci_high)
    assert np.mean(covered) >= 0.92
    same = peak_difference(both[:, :5], both[:, :5], None)
    assert (same.value, same.ci_low, same.ci_high) == (0, 0, 0)  # the same draws on both sides


def test_one_cluster_has_no_interval_and_the_seed_repeats():
    values = hits(np.random.default_rng(3), [0.2, 0.6, 0.5], 30)
    alone = peak_interval(values, ("a",) * 30)
    assert alone.ci_low is None and alone.value == peak(values)
    assert peak_interval(values, None) == peak_interval(values, None)


def test_paired_items_of_peaks():
    generator = np.random.default_rng(4)
    base, candidate = (Items("peak", hits(generator, rates, 100)) for rates in ([0.9, 0.2, 0.1], [0.1, 0.2, 0.9]))
    assert point_of(candidate) == 2
    found = PairedItems(base, candidate, ()).difference()
    assert (found.value, found.ci_low, found.ci_high, found.se) == (2, 2, 2, None)


@pytest.mark.parametrize("columns", [1, 2])
def test_few_columns(columns):
    found = peak_interval(np.eye(columns)[np.zeros(12, int)], None)
    assert (found.value, found.ci_low, found.ci_high) == (0, 0, 0)


def test_columns_that_tie_all_count():
    flat = np.ones((40, 5))
    found = peak_interval(flat, None)
    assert (found.value, found.ci_low, found.ci_high) == (0, 0, 4)
    two = np.column_stack([np.zeros(40), np.ones(40), np.ones(40), np.zeros(40)])
    assert (peak_interval(two, None).ci_low, peak_interval(two, None).ci_high) == (1, 2)
    other = np.column_stack([np.zeros(40), np.zeros(40), np.zeros(40), np.ones(40)])
    found = peak_difference(two, other, None)
    assert (found.value, found.ci_low, found.ci_high) == (2, 1, 2)
    assert peak_difference(flat, flat.copy(), None).ci_high == 0
