import numpy as np
import pytest
import statsmodels.api
from scipy import stats

from alignx_eval.statistics.clustered import (
    clustered_mean,
    clustered_ratio,
    clustered_ratio_difference,
    ratio_influence,
    t_interval,
    t_test,
)
from alignx_eval.statistics.pairing import cluster_codes, cluster_sums, wins_ties_losses


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
    fit = statsmodels.api.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    assert estimate.value == pytest.approx(fit.params[0], rel=1e-12)
    assert estimate.se == pytest.approx(fit.bse[0], rel=1e-10)
    # statsmodels counts the clusters; ours are as many as their uneven sizes are worth, so the interval is longer.
    assert estimate.degrees_of_freedom < 24
    assert estimate.ci_low < fit.conf_int()[0][0] and estimate.ci_high > fit.conf_int()[0][1]
    assert t_interval(estimate.value, estimate.se, 24.0) == pytest.approx(tuple(fit.conf_int()[0]), rel=1e-10)
    assert estimate.clusters == 25


def test_S1_pairing_shortens_the_interval_of_correlated_results():
    generator = np.random.default_rng(2)
    difficulty = generator.standard_normal(300)
    base, candidate = difficulty + 0.3 * generator.standard_normal(300), difficulty + 0.1 + 0.3 * generator.standard_normal(300)
    paired = clustered_mean(candidate - base)
    assert t_test(paired.value, paired.se, 300) < 0.001
    assert stats.ttest_ind(candidate, base).pvalue > 0.05  # what an unpaired test makes of it
    assert paired.se < 0.4 * np.hypot(stats.sem(base), stats.sem(candidate))


def test_S4_ties_are_counted_once():
    wins, ties, losses = wins_ties_losses(np.array([0, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 0]))
    assert (wins, ties, losses) == (0.2, 0.6, 0.2)
    assert wins + ties + losses == 1


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


def test_T9_standard_error_of_bernoulli_items():
    values = (np.random.default_rng(4).random(20_000) < 0.3).astype(float)
    assert clustered_mean(values).se == pytest.approx(np.sqrt(0.3 * 0.7 / 20_000), rel=0.02)


@pytest.mark.parametrize(
    "sizes", [np.ones(50, int), np.full(20, 4), np.random.default_rng(5).integers(1, 12, size=60)], ids=["items", "equal", "uneven"]
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
    ratio, mean = clustered_ratio(np.column_stack([values, np.ones(len(values))]), clusters), clustered_mean(values, clusters)
    assert (ratio.value, ratio.se) == pytest.approx((mean.value, mean.se), rel=1e-12)


def test_one_cluster_has_no_standard_error():
    estimate = clustered_mean(np.array([1.0, 2.0]), ["a", "a"])
    assert (estimate.value, estimate.se, estimate.ci_low, estimate.ci_high, estimate.clusters) == (1.5, None, None, None, 1)


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
