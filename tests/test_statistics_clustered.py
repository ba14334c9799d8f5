"""Cluster-robust means and ratios: against statsmodels, closed forms and simulation."""

import math

import numpy as np
import pytest
import statsmodels.api
from scipy import stats

from alignx_eval.statistics.clustered import (
    clustered_mean,
    clustered_mean_difference,
    clustered_ratio,
    clustered_ratio_difference,
    effective_clusters,
    lower_bound,
    one_sided_p,
    ratio_influence,
    skewness_of_sum,
    t_interval,
    t_test,
)
from alignx_eval.statistics.pairing import cluster_codes, cluster_sums


def clustered_data(generator: np.random.Generator, sizes: np.ndarray, between: float) -> tuple[np.ndarray, list[str]]:
    """Values with a common part for each cluster, mean 0, and their clusters in a random order."""
    codes = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return between * generator.standard_normal(len(sizes))[codes] + generator.standard_normal(len(codes)), [
        f"document {code}" for code in codes
    ]


def test_independent_items_give_the_t_test():
    differences = np.random.default_rng(0).normal(0.2, 1.0, size=40)
    estimate = clustered_mean(differences)
    expected = stats.ttest_1samp(differences, 0.0)
    assert estimate.se == pytest.approx(stats.sem(differences), rel=1e-12)
    low, high = expected.confidence_interval(0.95)
    # The skewness of a sample may lengthen the interval and never shortens it; without skewness it is the t interval.
    assert estimate.ci_low <= low + 1e-12 and estimate.ci_high >= high - 1e-12
    assert estimate.ci_high - estimate.ci_low == pytest.approx(high - low, rel=0.1)
    assert t_interval(estimate.value, estimate.se, 39.0) == pytest.approx((low, high), rel=1e-12)
    symmetric = clustered_mean(np.concatenate([differences, -differences]))
    assert (symmetric.ci_low, symmetric.ci_high) == pytest.approx(
        tuple(stats.ttest_1samp(np.concatenate([differences, -differences]), 0.0).confidence_interval(0.95)), rel=1e-12
    )
    assert t_test(estimate.value, estimate.se, estimate.degrees_of_freedom) == pytest.approx(expected.pvalue, rel=1e-12)
    assert (estimate.n, estimate.clusters) == (40, 40)


def test_equal_to_statsmodels_clustered_regression_on_a_constant():
    generator = np.random.default_rng(1)
    values, clusters = clustered_data(generator, generator.integers(1, 9, size=25), 0.7)
    estimate = clustered_mean(values, clusters)
    codes, _ = cluster_codes(clusters, len(values))
    fit = statsmodels.api.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": codes}, use_t=True
    )
    assert estimate.value == pytest.approx(fit.params[0], rel=1e-12)
    assert estimate.se == pytest.approx(fit.bse[0], rel=1e-10)
    # statsmodels counts the clusters; ours are as many as their uneven sizes are worth, so the interval is longer.
    assert estimate.degrees_of_freedom < 24
    assert estimate.ci_low < fit.conf_int()[0][0] and estimate.ci_high > fit.conf_int()[0][1]
    assert t_interval(estimate.value, estimate.se, 24.0) == pytest.approx(tuple(fit.conf_int()[0]), rel=1e-10)
    assert estimate.clusters == 25


def unpaired_z_p(base: np.ndarray, candidate: np.ndarray) -> float:
    """Two-sided p of lm-eval's model_comparator: the z of two independent samples."""
    z = (candidate.mean() - base.mean()) / math.hypot(stats.sem(base), stats.sem(candidate))
    return float(2 * stats.norm.sf(abs(z)))


def test_S1_pairing_shortens_the_interval_of_correlated_results():
    generator = np.random.default_rng(2)
    found = missed = 0
    for _ in range(50):
        difficulty = generator.standard_normal(300)
        base, candidate = (
            difficulty + 0.3 * generator.standard_normal(300),
            difficulty + 0.1 + 0.3 * generator.standard_normal(300),
        )
        paired = clustered_mean(candidate - base)
        found += t_test(paired.value, paired.se, paired.degrees_of_freedom) < 0.05
        missed += unpaired_z_p(base, candidate) > 0.05
        assert paired.se < 0.4 * np.hypot(stats.sem(base), stats.sem(candidate))
    assert found >= 45 and missed >= 45  # the same effect on the same items


def half_samples(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Means of 1000 resamples of half the items, as compare-mt draws them (comet-compare: 40 %)."""
    return values[generator.integers(0, len(values), (1000, len(values) // 2))].mean(axis=1)


def test_S3_the_spread_is_that_of_the_full_size():
    generator = np.random.default_rng(12)
    ours, halves, covered, covered_by_halves = [], [], 0, 0
    for _ in range(400):
        values = generator.normal(0.1, 1, 100)
        estimate = clustered_mean(values)
        resampled = half_samples(values, generator)
        ours.append(estimate.se)
        halves.append(resampled.std())
        covered += estimate.ci_low <= 0.1 <= estimate.ci_high
        low, high = np.quantile(resampled, (0.025, 0.975))
        covered_by_halves += low <= 0.1 <= high
    assert np.mean(ours) == pytest.approx(1 / 10, rel=0.02)
    assert np.mean(halves) == pytest.approx(math.sqrt(2) / 10, rel=0.03)  # wider by sqrt(2)
    assert stats.binomtest(covered, 400, 0.95).pvalue > 0.001
    assert stats.binomtest(covered_by_halves, 400, 0.95).pvalue < 0.001  # 99 %: not the level it claims


def test_S3_the_share_of_wins_in_half_samples_is_no_p_value():
    generator = np.random.default_rng(13)
    values = generator.standard_normal(200)
    values += 1.96 * values.std(ddof=1) / math.sqrt(200) - values.mean()  # two-sided p of 0.05
    estimate = clustered_mean(values)
    assert t_test(estimate.value, estimate.se, estimate.degrees_of_freedom) == pytest.approx(0.05, abs=0.005)
    losses = (half_samples(values, generator) <= 0).mean()
    assert 2 * losses > 0.12  # what half-samples make of the same data


def wins_of_compare_mt(base: np.ndarray, candidate: np.ndarray) -> tuple[float, float, float]:
    """Shares of wins of the base, of the candidate, and of "ties", as compare-mt counts them: a base's win is a tie as
    well."""
    base_wins, candidate_wins = (base > candidate).mean(), (base < candidate).mean()
    return float(base_wins), float(candidate_wins), float(1 - candidate_wins)


def test_S4_ties_are_counted_once():
    """A tie counts for no side: the paired difference is wins - losses, and turns its sign with the sides."""
    for seed in range(20):
        base, candidate = np.random.default_rng(seed).integers(0, 2, (2, 37))
        wins, losses = (candidate > base).mean(), (candidate < base).mean()
        there, back = clustered_mean_difference(base, candidate), clustered_mean_difference(candidate, base)
        assert there.value == pytest.approx(wins - losses, abs=1e-12)
        assert (back.value, back.se) == (pytest.approx(-there.value), pytest.approx(there.se))
        assert sum(wins_of_compare_mt(base, candidate)) > 1.1


def test_S6_items_shared_across_languages():
    # 11 languages x 200 lines: translations of a line are hard together, so 2200 items are worth far less than 2200.
    generator = np.random.default_rng(3)
    clusters = [str(line) for _ in range(11) for line in range(200)]
    means, clustered, naive = [], [], []
    for _ in range(300):
        values = np.tile(generator.standard_normal(200), 11) + generator.standard_normal(2200)
        means.append(values.mean())
        clustered.append(clustered_mean(values, clusters).se)
        naive.append(clustered_mean(values).se)
    truth = np.std(means, ddof=1)
    assert np.mean(clustered) == pytest.approx(truth, rel=0.1)
    assert np.mean(naive) < 0.5 * truth


def test_S8_a_mean_over_groups_and_its_error_are_of_one_estimator():
    # A benchmark of two subtasks, 900 easy and 100 hard documents: the mean weights documents, so must its standard
    # error.
    generator = np.random.default_rng(14)
    sizes, rates = (900, 100), (0.9, 0.5)
    means, ours, peers = [], [], []
    for _ in range(400):
        groups = [(generator.random(size) < rate).astype(float) for size, rate in zip(sizes, rates)]
        estimate = clustered_mean(np.concatenate(groups) - np.repeat(rates, sizes))  # around each group's own rate
        means.append(estimate.value)
        ours.append(estimate.se)
        # the standard error of the unweighted mean of subtasks, next to a mean that is weighted (lm-eval before #3882)
        peers.append(math.sqrt(sum(stats.sem(group) ** 2 for group in groups)) / len(groups))
    truth = np.std(means, ddof=1)
    assert np.mean(ours) == pytest.approx(truth, rel=0.1)
    assert np.mean(peers) > 1.8 * truth


def test_T9_standard_error_of_bernoulli_items():
    for seed in range(5):
        generator = np.random.default_rng(seed)
        values = (generator.random(2000) < 0.3).astype(float)
        closed_form = math.sqrt(0.3 * 0.7 / 2000)
        assert clustered_mean(values).se == pytest.approx(closed_form, rel=0.1)
        # lighteval divides the spread of 1000 bootstrap draws by sqrt(1000) once more
        resampled = values[generator.integers(0, 2000, (1000, 2000))].mean(axis=1)
        assert resampled.std(ddof=1) == pytest.approx(closed_form, rel=0.1)
        assert resampled.std(ddof=1) / math.sqrt(1000) < closed_form / 25


@pytest.mark.parametrize("events", [0, 1, 2, 3, 5, 10, 40])
def test_rare_outcomes_have_nearly_the_exact_bounds(events):
    # Clopper and Pearson's bounds are exact; ours must reach them, and exceed them by a fraction of one event only.
    values = np.zeros(1000)
    values[:events] = 1
    estimate = clustered_mean(values)
    upper = -lower_bound(-estimate.value, estimate.se, estimate.degrees_of_freedom, -estimate.skewness)
    exact = stats.binomtest(events, 1000, alternative="less").proportion_ci(0.95).high
    assert exact < upper < exact + 0.5e-3
    two_sided = stats.binomtest(events, 1000).proportion_ci(0.95)
    assert estimate.ci_low < two_sided.low and two_sided.high < estimate.ci_high < two_sided.high + 0.7e-3
    mirrored = clustered_mean(-values)
    assert (mirrored.ci_low, mirrored.ci_high) == pytest.approx((-estimate.ci_high, -estimate.ci_low), rel=1e-12)


def test_an_interval_of_outcomes_covers_where_the_plain_one_does_not():
    generator = np.random.default_rng(15)
    covered = plain = 0
    for _ in range(400):
        values = -(generator.random(50) < 0.03).astype(float)  # 3 % lost, nothing gained
        estimate = clustered_mean(values)
        covered += estimate.ci_low <= -0.03 <= estimate.ci_high
        low, high = t_interval(values.mean(), stats.sem(values), 49.0)
        plain += low <= -0.03 <= high
    assert covered / 400 > 0.95 and plain / 400 < 0.85


def test_outcomes_that_do_not_vary_or_cancel_within_clusters():
    unchanged = clustered_mean(np.zeros(60), [str(item // 3) for item in range(60)])
    assert unchanged.ci_low == -unchanged.ci_high < 0 and unchanged.se == pytest.approx(2 * math.sqrt(3) / 60)
    cancelled = clustered_mean(np.array([1.0, -1.0] * 20), [str(item // 2) for item in range(40)])
    assert cancelled.se == pytest.approx(2 / 40) and math.isfinite(cancelled.ci_high)
    assert clustered_mean(np.full(60, 0.5)).se == 0  # not outcomes: nothing is known about what they might have been
    judged = np.column_stack([np.zeros(60), np.ones(60)])
    assert clustered_ratio(judged).se == pytest.approx(2 / 60) and clustered_ratio_difference(
        judged, judged
    ).se == pytest.approx(2 / 60)


def test_differences_that_are_all_zero_are_no_outcomes_by_themselves():
    clusters = [str(item // 3) for item in range(60)]
    costs = np.random.default_rng(20).gamma(2.0, 1.0, 60)
    same = clustered_mean_difference(costs, costs.copy(), clusters)
    assert (same.value, same.se, same.ci_low, same.ci_high) == (0.0, 0.0, 0.0, 0.0)
    # Costs that differ by whole numbers are no outcomes either.
    shifted = clustered_mean_difference(costs, costs + np.resize([0.0, 1.0, -1.0], 60), clusters)
    assert "pseudo-items" not in shifted.method
    # Of outcomes none may have been seen: the interval says how much that leaves open.
    for hits in (np.zeros(60), np.ones(60), np.resize([0.0, 1.0], 60)):
        unchanged = clustered_mean_difference(hits, hits.copy(), clusters)
        assert unchanged.value == 0 and unchanged.se == pytest.approx(2 * math.sqrt(3) / 60)
    # And everything else is the mean of the differences.
    other = np.random.default_rng(21).gamma(2.0, 1.0, 60)
    assert clustered_mean_difference(costs, other, clusters) == clustered_mean(other - costs, clusters)


@pytest.mark.parametrize("skewness", [0.0, 0.1, -0.3, 0.9])
def test_bounds_and_p_values_agree(skewness):
    for alpha in (0.2, 0.05, 1e-6):
        bound = lower_bound(1.7, 0.4, 23.0, skewness, alpha=alpha)
        assert one_sided_p(1.7, bound, 0.4, 23.0, skewness) == pytest.approx(alpha, rel=1e-6)
    margins = np.linspace(-3, 6, 91)
    p = [one_sided_p(1.7, margin, 0.4, 23.0, skewness) for margin in margins]
    assert np.all(np.diff(p) >= 0)  # the larger the margin, the less is it exceeded
    assert one_sided_p(1.7, 1.7, 0.4, 23.0, skewness) == 0.5
    low, high = t_interval(1.7, 0.4, 23.0, skewness)
    plain = stats.t.interval(0.95, 23, 1.7, 0.4)
    assert low <= plain[0] + 1e-12 and high >= plain[1] - 1e-12
    assert (low == pytest.approx(plain[0])) == (skewness >= 0) and (high == pytest.approx(plain[1])) == (skewness <= 0)
    for value in (low, high):  # p of 0.05 exactly at the ends of the 95 % interval
        assert t_test(1.7 - value, 0.4, 23.0, skewness) == pytest.approx(0.05, rel=1e-6)
    assert (one_sided_p(1.0, 0.5, 0.0, 9.0), one_sided_p(0.5, 0.5, 0.0, 9.0)) == (0.0, 1.0)


def test_the_enlarged_error_is_that_of_the_score_test():
    # For a mean of 0/1 values the variance at p is p (1 - p) + (p - mean)^2 per item, the same as Wilson's to first
    # order.
    p_hat, n = 0.1, 400
    se, skewness = math.sqrt(p_hat * (1 - p_hat) / n), (1 - 2 * p_hat) / math.sqrt(p_hat * (1 - p_hat) * n)
    for p in (0.12, 0.15, 0.2):
        z = (p_hat - p) / math.sqrt((p * (1 - p) + (p - p_hat) ** 2) / n)
        assert one_sided_p(-p_hat, -p, se, 1e9, -skewness) == pytest.approx(stats.norm.sf(-z), rel=1e-6)


def test_one_sided_size_with_skewed_values():
    # A loss exactly at the tolerance, with a long tail to the side of gains: the plain t test says "above the
    # tolerance" too often.
    generator = np.random.default_rng(16)
    ours = plain = 0
    for _ in range(2000):
        values = 1 - generator.exponential(1, 60)
        estimate = clustered_mean(values)
        ours += one_sided_p(estimate.value, 0.0, estimate.se, estimate.degrees_of_freedom, estimate.skewness) < 0.05
        plain += stats.ttest_1samp(values, 0.0, alternative="greater").pvalue < 0.05
    assert stats.binomtest(ours, 2000, 0.05, alternative="greater").pvalue > 0.001
    assert stats.binomtest(plain, 2000, 0.05, alternative="greater").pvalue < 0.001


def test_effective_clusters():
    assert effective_clusters(np.full(17, 4)) == pytest.approx(17)
    assert effective_clusters(np.array([1, 1, 1, 1000])) == pytest.approx(1, abs=1e-5)
    # Satterthwaite: twice the squared mean over the variance of the sum of squares of clusters that move as one
    sizes = np.random.default_rng(17).integers(1, 9, 40)
    squares = (sizes * np.random.default_rng(18).standard_normal((200_000, 40))) ** 2
    total = squares.sum(axis=1)
    assert effective_clusters(sizes) == pytest.approx(2 * total.mean() ** 2 / total.var(), rel=0.03)


def test_skewness_of_a_mean():
    values = np.random.default_rng(19).exponential(1, 50)
    assert skewness_of_sum(values - values.mean()) == pytest.approx(
        stats.skew(values, bias=False) / math.sqrt(50), rel=1e-12
    )
    assert skewness_of_sum(1e-200 * (values - values.mean())) == pytest.approx(
        stats.skew(values, bias=False) / math.sqrt(50), rel=1e-9
    )
    assert skewness_of_sum(np.array([1.0, -1.0])) == skewness_of_sum(np.zeros(5)) == 0.0
    assert clustered_mean(-values).skewness == -clustered_mean(values).skewness


@pytest.mark.parametrize(
    "sizes",
    [np.ones(50, int), np.full(20, 4), np.random.default_rng(5).integers(1, 12, size=60)],
    ids=["items", "equal", "uneven"],
)
def test_coverage_of_the_mean(sizes):
    generator = np.random.default_rng(6)
    draws, covered = 600, 0
    for _ in range(draws):
        values, clusters = clustered_data(generator, sizes, 0.8)
        estimate = clustered_mean(values, clusters if sizes.max() > 1 else None)
        covered += estimate.ci_low <= 0 <= estimate.ci_high
    assert stats.binomtest(covered, draws, 0.95, alternative="less").pvalue > 0.001
    assert covered / draws < 0.985


def test_ratio_and_difference_of_ratios():
    generator = np.random.default_rng(7)
    base = np.column_stack([generator.gamma(5, 2, 400), generator.integers(20, 200, 400)]).astype(float)
    candidate = np.column_stack([base[:, 0] * generator.uniform(0.8, 1.1, 400), base[:, 1]])
    estimate = clustered_ratio(base)
    assert estimate.value == pytest.approx(base[:, 0].sum() / base[:, 1].sum(), rel=1e-14)
    # the bootstrap of the ratio is an independent way to its standard error
    picks = generator.integers(0, 400, size=(4000, 400))
    ratio = base[picks].sum(axis=1)
    assert estimate.se == pytest.approx((ratio[:, 0] / ratio[:, 1]).std(), rel=0.06)
    difference = clustered_ratio_difference(base, candidate)
    other = candidate[picks].sum(axis=1)
    assert difference.se == pytest.approx((other[:, 0] / other[:, 1] - ratio[:, 0] / ratio[:, 1]).std(), rel=0.06)
    assert difference.value == pytest.approx(clustered_ratio(candidate).value - estimate.value, rel=1e-12)
    assert clustered_ratio_difference(base, base).se == 0.0
    assert ratio_influence(base)[1].sum() == pytest.approx(0, abs=1e-12)


def test_a_ratio_with_constant_denominators_is_a_mean():
    generator = np.random.default_rng(8)
    values, clusters = clustered_data(generator, generator.integers(1, 5, size=30), 1.0)
    ratio, mean = (
        clustered_ratio(np.column_stack([values, np.ones(len(values))]), clusters),
        clustered_mean(values, clusters),
    )
    assert (ratio.value, ratio.se) == pytest.approx((mean.value, mean.se), rel=1e-12)


def test_one_cluster_has_no_standard_error():
    estimate = clustered_mean(np.array([1.0, 2.0]), ["a", "a"])
    assert (estimate.value, estimate.se, estimate.ci_low, estimate.ci_high, estimate.clusters) == (
        1.5,
        None,
        None,
        None,
        1,
    )


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="finite"):
        clustered_mean(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="2 clusters for 3 items"):
        clustered_mean(np.ones(3), ["a", "b"])
    with pytest.raises(ValueError, match="denominator is 0"):
        clustered_ratio(np.zeros((3, 2)))


def test_cluster_sums():
    codes, count = cluster_codes(["b", "a", "b"], 3)
    assert codes.tolist() == [0, 1, 0] and count == 2
    assert cluster_sums(np.array([1.0, 2.0, 4.0]), codes, count).tolist() == [5.0, 2.0]
    assert cluster_sums(np.array([[1.0, 10], [2, 20], [4, 40]]), codes, count).tolist() == [[5.0, 50.0], [2.0, 20.0]]
