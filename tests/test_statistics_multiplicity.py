"""Benjamini-Hochberg, intervals after selection and power: against statsmodels, and what they promise by simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from alignx_eval.statistics.multiplicity import benjamini_hochberg, holm
from alignx_eval.statistics.power import minimum_detectable_effect

P_VALUES = [
    pytest.param(np.random.default_rng(seed).random(size) ** 3, id=f"{size} p values, seed {seed}")
    for seed in range(3)
    for size in (1, 2, 17, 500)
] + [
    pytest.param(np.array([0.01, 0.01, 0.04, 0.04, 1.0, 1.0, 0.0]), id="ties"),
    pytest.param(np.array([]), id="none"),
]


@pytest.mark.parametrize("p", P_VALUES)
def test_equal_to_statsmodels(p):
    if len(p):
        np.testing.assert_allclose(benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1], rtol=1e-12)
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)
    assert len(benjamini_hochberg(p)) == len(holm(p)) == len(p)


@pytest.mark.parametrize("bad", [[0.5, np.nan], [-0.1], [1.1], [[0.5]]])
def test_what_is_no_p_value_is_refused(bad):
    with pytest.raises(ValueError, match="from 0 to 1"):
        benjamini_hochberg(bad)


def test_S7_false_discoveries_in_a_family_with_some_effects():
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(300):
        z = (
            generator.standard_normal(200) + 0.7 * generator.standard_normal()
        )  # positively dependent, as layers of one model are
        z = z / np.sqrt(1 + 0.7**2)
        z[:40] += 3.5
        found = benjamini_hochberg(2 * stats.norm.sf(np.abs(z))) < 0.05
        shares.append(found[40:].sum() / max(1, found.sum()))
    assert np.mean(shares) < 0.05 + 3 * np.std(shares) / np.sqrt(len(shares))


@pytest.mark.parametrize("n", [20, 100, 500])
def test_minimum_detectable_effect_has_the_power_it_claims(n):
    effect = minimum_detectable_effect(1 / np.sqrt(n), n - 1)
    assert TTestPower().power(effect, n, 0.05, alternative="two-sided") == pytest.approx(0.8, abs=0.01)


def test_minimum_detectable_effect_of_a_hundred_sentences():
    # 100 paired binary outcomes with correlation 0.5: about 0.14, the figure for the usual 100-sentence set-ups
    assert minimum_detectable_effect(0.5 / 10, 99) == pytest.approx(0.14, abs=0.003)
