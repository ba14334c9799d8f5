"""Sign-flip and swap tests: against enumeration, SciPy and sacreBLEU, and their size by simulation."""

import itertools
import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from scipy import stats

from alignx_eval.statistics.corpus_metrics import bleu_from_statistics, chrf_from_statistics
from alignx_eval.statistics.pairing import cluster_codes, cluster_sums
from alignx_eval.statistics.signflip import DEFAULT_DRAWS, draws_for_family, mcnemar_exact, sign_flip_test, swap_test


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def enumerated(differences: np.ndarray) -> float:
    """The definition: the share of all sign patterns whose total is at least as far from 0."""
    observed = abs(differences.sum())
    totals = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=len(differences))]
    return float(np.mean([total >= observed - 1e-12 for total in totals]))


@pytest.mark.parametrize("size", [1, 2, 5, 9, 12])
@pytest.mark.parametrize("discrete", [False, True])
def test_equal_to_brute_force(size, discrete):
    for seed in range(5):
        differences = (
            generator(seed).integers(-3, 4, size).astype(float) if discrete else generator(seed).normal(0.4, 1, size)
        )
        assert sign_flip_test(differences, generator=generator()) == pytest.approx(enumerated(differences), abs=1e-12)


def test_equal_to_scipy_permutation_test():
    differences = generator(1).normal(0.5, 1, 12)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip_test(differences, generator=generator()) == pytest.approx(expected.pvalue, rel=1e-12)


def test_drawn_p_is_close_to_the_enumerated_one():
    differences = generator(2).normal(0.4, 1, 13)
    exact = enumerated(differences)
    drawn = sign_flip_test(differences, generator=generator(3), draws=4000)  # fewer than the 4096 patterns, so drawn
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000) + 1 / 4001)


def test_drawn_p_is_close_to_the_t_test_for_normal_differences():
    differences = generator(4).normal(0.11, 1, 300)
    assert sign_flip_test(differences, generator=generator()) == pytest.approx(
        stats.ttest_1samp(differences, 0).pvalue, abs=0.01
    )


def test_the_smallest_p_is_one_of_the_draws_plus_one():
    differences = generator(5).normal(3, 1, 200)
    assert sign_flip_test(differences, generator=generator(), draws=999) == 1 / 1000


def test_rows_of_a_family_agree_with_single_rows():
    differences = generator(6).normal(0.1, 1, (50, 4))
    differences[:, 1] = 0  # identical
    differences[:45, 2] = 0  # few clusters differ: enumerated
    differences[:, 3] = np.sign(differences[:, 3])  # one magnitude: binomial
    family = sign_flip_test(differences, generator=generator())
    for row in range(4):
        assert family[row] == sign_flip_test(differences[:, row], generator=generator())
    assert family[1] == 1.0
    assert family[2] == pytest.approx(enumerated(differences[45:, 2]))
    assert family[3] == pytest.approx(stats.binomtest(int((differences[:, 3] > 0).sum()), 50).pvalue)


def test_invariances():
    differences = generator(7).normal(0.2, 1, 40)
    p = sign_flip_test(differences, generator=generator())
    assert sign_flip_test(-differences, generator=generator()) == p  # base and candidate exchanged
    assert sign_flip_test(1e6 * differences, generator=generator()) == p
    assert sign_flip_test(np.concatenate([differences, np.zeros(9)]), generator=generator()) == pytest.approx(
        p, abs=0.02
    )
    assert sign_flip_test(differences, generator=generator()) == p  # the same seed


def chi_square_mcnemar(gains: int, losses: int) -> float:
    """p of `evaluate`'s McNemar comparison."""
    return float(stats.chi2.sf((gains - losses) ** 2 / (gains + losses), 1))


def test_S1_exact_mcnemar():
    with pytest.raises(ZeroDivisionError):
        chi_square_mcnemar(0, 0)
    assert chi_square_mcnemar(1, 6) > 0.05 and chi_square_mcnemar(0, 5) < 0.05 < mcnemar_exact(
        0, 5
    )  # and it is no 5 % test for few
    assert mcnemar_exact(0, 0) == 1.0
    for gains, losses in [(1, 0), (5, 5), (12, 3), (0, 40), (1000, 1100)]:
        assert mcnemar_exact(gains, losses) == pytest.approx(
            stats.binomtest(gains, gains + losses, 0.5).pvalue, rel=1e-10
        )
    from statsmodels.stats.contingency_tables import mcnemar

    assert mcnemar_exact(12, 3) == pytest.approx(mcnemar([[50, 12], [3, 35]], exact=True).pvalue, rel=1e-12)
    hits = np.array([1.0] * 12 + [-1.0] * 3 + [0.0] * 85)
    assert sign_flip_test(hits, generator=generator()) == mcnemar_exact(12, 3)


def test_S2_size_of_the_sign_flip_test():
    random = generator(8)
    # clusters of 4 items that share their luck; skewed, discrete differences that are symmetric under the null
    p = []
    for _ in range(600):
        values = np.repeat(random.standard_t(3, 30), 4) + random.integers(-1, 2, 120)
        codes, count = cluster_codes([str(item // 4) for item in range(120)], 120)
        p.append(sign_flip_test(cluster_sums(values, codes, count), generator=random, draws=199))
    rejected = int((np.array(p) <= 0.05).sum())
    assert stats.binomtest(rejected, 600, 0.05).pvalue > 0.001


def bootstrap_p(differences: np.ndarray, random: np.random.Generator) -> float:
    """p of sacreBLEU's --paired-bs for a mean: resampled absolute differences less their own mean, above the observed
    one."""
    resampled = np.abs(differences[random.integers(0, len(differences), (1000, len(differences)))].mean(axis=1))
    return float(((resampled - resampled.mean() > abs(differences.mean())).sum() + 1) / 1001)


def test_S2_at_z_1_96_the_p_is_0_05_and_without_a_difference_it_is_1():
    differences = generator(9).standard_normal(400)
    differences -= differences.mean()
    assert sign_flip_test(differences, generator=generator()) == pytest.approx(1.0, abs=1e-3)
    assert bootstrap_p(differences, generator()) == pytest.approx(0.42, abs=0.05)
    differences += 1.96 * differences.std(ddof=1) / 20
    assert sign_flip_test(differences, generator=generator()) == pytest.approx(0.05, abs=0.01)
    assert bootstrap_p(differences, generator()) < 0.037


def test_S2_half_sized_p_values_reject_too_often():
    random = generator(16)
    ours, peers = [], []
    for _ in range(800):
        differences = random.standard_normal(50)
        ours.append(sign_flip_test(differences, generator=random, draws=199))
        peers.append(bootstrap_p(differences, random))
    assert stats.binomtest(int((np.array(ours) <= 0.05).sum()), 800, 0.05).pvalue > 0.001
    assert stats.binomtest(int((np.array(peers) <= 0.05).sum()), 800, 0.05, alternative="greater").pvalue < 0.001


def sentence_statistics(random: np.random.Generator, lines: int, quality: float) -> np.ndarray:
    length = random.integers(6, 30, lines)
    total = np.column_stack([length - order for order in range(4)])
    correct = random.binomial(total, quality ** np.arange(1, 5))
    return np.column_stack([length, length, correct, total])


def test_swap_test_equals_brute_force():
    random = generator(10)
    base, candidate = sentence_statistics(random, 9, 0.5), sentence_statistics(random, 9, 0.65)
    candidate[4] = base[4]  # a line that does not differ
    observed = abs(bleu_from_statistics(candidate.sum(axis=0)) - bleu_from_statistics(base.sum(axis=0)))
    gaps = []
    for swap in itertools.product((False, True), repeat=9):
        one = np.where(np.array(swap)[:, None], candidate, base).sum(axis=0)
        other = np.where(np.array(swap)[:, None], base, candidate).sum(axis=0)
        gaps.append(abs(bleu_from_statistics(one) - bleu_from_statistics(other)))
    expected = np.mean([gap >= observed - 1e-9 for gap in gaps])
    assert swap_test(base, candidate, bleu_from_statistics, generator=generator()) == pytest.approx(expected, abs=1e-12)


def test_swap_test_of_a_mean_is_the_sign_flip_test():
    random = generator(11)
    base, candidate = random.normal(0, 1, 200), random.normal(0.15, 1, 200)
    sums = [np.column_stack([side, np.ones(200)]) for side in (base, candidate)]
    swapped = swap_test(*sums, lambda totals: totals[..., 0] / totals[..., 1], generator=generator())
    assert swapped == sign_flip_test(candidate - base, generator=generator())


WORDS = "the a cat dog sat on mat house runs fast and slow old new blue red".split()


def translations(seed: int, lines: int, quality: float, references: list[list[str]]) -> list[str]:
    random = generator(seed)
    return [
        " ".join(word if random.random() < quality else str(random.choice(WORDS)) for word in reference)
        for reference in references
    ][:lines]


@pytest.mark.parametrize("quality", [0.70, 0.72, 0.76])
def test_swap_test_agrees_with_sacrebleu_paired_ar(quality):
    random = generator(12)
    references = [[str(word) for word in random.choice(WORDS, size=random.integers(5, 20))] for _ in range(120)]
    text = [" ".join(reference) for reference in references]
    systems = [
        ("base", translations(1, 120, 0.70, references)),
        ("candidate", translations(2, 120, quality, references)),
    ]
    metrics = {"BLEU": BLEU(), "chrF2++": CHRF(word_order=2)}
    _, scores = PairedTest(systems, metrics, [text], test_type="ar", n_samples=2000)()
    for name, function in (("BLEU", bleu_from_statistics), ("chrF2++", chrf_from_statistics)):
        sides = [np.array(metrics[name]._extract_corpus_statistics(output, [text])) for _, output in systems]
        p = swap_test(*sides, function, generator=generator(), draws=2000)
        expected = scores[name][1].p_value
        assert p == pytest.approx(expected, abs=4.5 * math.sqrt(2 * max(expected * (1 - expected), 1e-3) / 2000))


def test_S2_size_of_the_swap_test_of_bleu():
    random = generator(13)
    p = []
    for _ in range(300):
        base, candidate = sentence_statistics(random, 60, 0.6), sentence_statistics(random, 60, 0.6)
        p.append(swap_test(base, candidate, bleu_from_statistics, generator=random, draws=199))
    rejected = int((np.array(p) <= 0.05).sum())
    assert stats.binomtest(rejected, 300, 0.05).pvalue > 0.001


def test_S9_identical_systems_have_p_1():
    same = sentence_statistics(generator(14), 50, 0.6)
    assert swap_test(same, same, bleu_from_statistics, generator=generator()) == 1.0
    assert sign_flip_test(np.zeros(50), generator=generator()) == 1.0
    assert sign_flip_test(np.zeros((50, 3)), generator=generator()).tolist() == [1.0, 1.0, 1.0]
    shuffled = same[
        generator(15).permutation(50)
    ]  # not identical, but the same total: sacreBLEU, which does not count ties, may differ here
    assert swap_test(same, shuffled, bleu_from_statistics, generator=generator()) == 1.0


def test_S7_draws_grow_with_the_family():
    assert draws_for_family(10) == DEFAULT_DRAWS
    for rows in (500, 1000, 5000):
        assert 1 / (draws_for_family(rows) + 1) <= 0.05 / rows / 2


def test_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        sign_flip_test(np.array([1.0, np.nan]), generator=generator())
    with pytest.raises(ValueError, match="finite"):
        swap_test(np.full((3, 10), np.nan), np.ones((3, 10)), bleu_from_statistics, generator=generator())
