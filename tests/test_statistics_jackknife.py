"""Delete-a-cluster jackknife: against closed forms, scoring anew, and simulation."""

import numpy as np
import pytest
from scipy import stats

from alignx_eval.statistics.clustered import clustered_mean
from alignx_eval.statistics.corpus_metrics import bleu_from_statistics
from alignx_eval.statistics.jackknife import jackknife, leave_one_out


def mean_of_sums(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=60)
    point, left_out = leave_one_out(np.column_stack([values, np.ones(60)]), mean_of_sums)
    estimate, expected = jackknife(point, left_out), clustered_mean(values)
    assert (estimate.value, estimate.se, estimate.ci_low) == pytest.approx(
        (expected.value, expected.se, expected.ci_low), rel=1e-12
    )
    assert "jackknife" in estimate.method and estimate.clusters == 60


def test_equal_values_give_exactly_no_spread():
    estimate = jackknife(0.1, np.full(7, 0.1))
    assert (estimate.se, estimate.ci_low, estimate.ci_high) == (0.0, 0.1, 0.1)


def test_one_group_has_no_standard_error():
    assert jackknife(1.0, np.array([1.0])).se is None


def test_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        jackknife(0.0, np.array([0.0, np.nan]))


def random_statistics(generator: np.random.Generator, lines: int, quality: float) -> np.ndarray:
    """BLEU statistics of `lines` sentences, correct n-grams binomial with a probability that falls with the order."""
    length = generator.integers(8, 30, lines)
    total = np.column_stack([length - order for order in range(4)])
    correct = generator.binomial(total, quality ** np.arange(1, 5))
    return np.column_stack([length, np.maximum(1, length + generator.integers(-2, 3, lines)), correct, total])


def test_leave_one_out_is_what_scoring_anew_gives():
    statistics = random_statistics(np.random.default_rng(1), 9, 0.6)
    point, left_out = leave_one_out(statistics, bleu_from_statistics)
    assert point == bleu_from_statistics(statistics.sum(axis=0))
    expected = [bleu_from_statistics(np.delete(statistics, line, axis=0).sum(axis=0)) for line in range(9)]
    np.testing.assert_allclose(left_out, expected, rtol=1e-13)


def test_S3_a_half_sample_of_bleu_is_wider_than_the_jackknife():
    generator = np.random.default_rng(6)
    statistics = random_statistics(generator, 200, 0.6)
    point, left_out = leave_one_out(statistics, bleu_from_statistics)
    assert len(left_out) == 200  # every line takes part
    full, half = (
        bleu_from_statistics(statistics[generator.integers(0, 200, (4000, size))].sum(axis=1)).std()
        for size in (200, 100)
    )
    estimate = jackknife(point, left_out)
    assert estimate.se == pytest.approx(full, rel=0.05)
    assert half == pytest.approx(np.sqrt(2) * estimate.se, rel=0.07)


def test_sizes_of_the_groups_lower_the_degrees_of_freedom():
    values = np.random.default_rng(7).normal(size=30)
    point, left_out = leave_one_out(np.column_stack([values, np.ones(30)]), mean_of_sums)
    sizes = np.array([1] * 25 + [8] * 5)
    even, uneven = jackknife(point, left_out, sizes=np.full(30, 3)), jackknife(point, left_out, sizes=sizes)
    assert even.degrees_of_freedom == pytest.approx(29) and uneven.degrees_of_freedom < 6
    assert even.ci_high == pytest.approx(jackknife(point, left_out).ci_high) and uneven.ci_high > even.ci_high
    assert uneven.se == even.se


def test_skewness_is_that_of_the_mean():
    values = np.random.default_rng(8).exponential(1, 60)
    point, left_out = leave_one_out(np.column_stack([values, np.ones(60)]), mean_of_sums)
    assert jackknife(point, left_out).skewness == pytest.approx(stats.skew(values, bias=False) / np.sqrt(60), rel=1e-9)


def test_coverage_of_a_difference_in_bleu():
    # The truth of both systems is one distribution, so the true difference is 0.
    generator = np.random.default_rng(2)
    draws, covered = 300, 0
    for _ in range(draws):
        sides = [leave_one_out(random_statistics(generator, 80, 0.6), bleu_from_statistics) for _ in range(2)]
        estimate = jackknife(sides[1][0] - sides[0][0], sides[1][1] - sides[0][1])
        covered += estimate.ci_low <= 0 <= estimate.ci_high
    assert stats.binomtest(covered, draws, 0.95).pvalue > 0.001


def debiased_cka(left: np.ndarray, right: np.ndarray) -> float:
    """Linear CKA with the unbiased HSIC of Song et al. 2012, written out from the formula."""

    def hsic(first: np.ndarray, second: np.ndarray) -> float:
        n = len(first)
        first, second = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
        trace = np.trace(first @ second) + first.sum() * second.sum() / ((n - 1) * (n - 2))
        return (trace - 2 * (first.sum(axis=0) @ second.sum(axis=1)) / (n - 2)) / (n * (n - 3))

    grams = left @ left.T, right @ right.T
    return hsic(*grams) / np.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))


def test_R2_jackknife_of_a_difference_in_debiased_cka():
    # Dependent representations; base and candidate relate to the pivot with the same strength, so the true difference
    # is 0.
    generator = np.random.default_rng(3)
    draws, n, width, covered = 100, 40, 6, 0
    for _ in range(draws):
        pivot = generator.standard_normal((n, width))
        sides = [pivot + generator.standard_normal((n, width)) for _ in range(2)]
        points = [debiased_cka(pivot, side) for side in sides]
        keep = [np.delete(np.arange(n), line) for line in range(n)]
        left_out = np.array([[debiased_cka(pivot[rows], side[rows]) for rows in keep] for side in sides])
        estimate = jackknife(points[1] - points[0], left_out[1] - left_out[0])
        covered += estimate.ci_low <= 0 <= estimate.ci_high
    assert covered / draws >= 0.88
    # and why it is not the bootstrap: rows drawn twice look aligned
    left, right = generator.standard_normal((2, 60, 300))
    picks = [generator.integers(0, 60, 60) for _ in range(20)]
    assert (
        abs(debiased_cka(left, right)) < 0.1 < 0.4 < np.mean([debiased_cka(left[rows], right[rows]) for rows in picks])
    )


def test_S3_all_of_the_data_are_used_where_subsamples_widen_the_spread():
    """Peers draw 40 % or 50 % of the lines per resample and read the spread off the draws; that is the spread of a
    smaller test set."""
    generator = np.random.default_rng(3)
    values = generator.normal(size=400)
    point, left_out = leave_one_out(np.column_stack([values, np.ones(400)]), mean_of_sums)
    ours = jackknife(point, left_out).se
    truth = values.std(ddof=1) / np.sqrt(400)
    draws = {
        share: [generator.choice(values, int(share * 400)).mean() for _ in range(4000)] for share in (0.4, 0.5, 1.0)
    }
    assert ours == pytest.approx(truth, rel=1e-9)
    assert np.std(draws[0.4]) == pytest.approx(truth / np.sqrt(0.4), rel=0.05) and np.std(draws[0.4]) > 1.4 * ours
    assert np.std(draws[0.5]) == pytest.approx(truth / np.sqrt(0.5), rel=0.05) and np.std(draws[0.5]) > 1.3 * ours
    assert np.std(draws[1.0]) == pytest.approx(ours, rel=0.05)


def test_T9_the_standard_error_is_not_divided_by_the_number_of_draws_once_more():
    """A peer divides the spread of 1,000 bootstrap draws by sqrt(1,000) again and is 31.6 times too small."""
    generator = np.random.default_rng(4)
    values = (generator.random(400) < 0.3).astype(float)
    point, left_out = leave_one_out(np.column_stack([values, np.ones(400)]), mean_of_sums)
    closed_form = np.sqrt(point * (1 - point) / 400)
    assert jackknife(point, left_out).se == pytest.approx(closed_form, rel=0.1)
    assert clustered_mean(values).se == pytest.approx(closed_form, rel=0.1)
    draws = [generator.choice(values, 400).mean() for _ in range(1000)]
    assert np.std(draws) == pytest.approx(closed_form, rel=0.1)
    assert np.std(draws) / np.sqrt(1000) < closed_form / 25
