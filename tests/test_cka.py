"""CKA against the formulas of the papers written out, its invariances, its null, and its leave-group-out values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.oracles import feature_space_debiased
from hypothesis import given, settings
from hypothesis import strategies as st

from alignx_eval.measures import cka
from alignx_eval.measures.cka import (
    biased_cka,
    biased_cka_with_null,
    centred_gram,
    debiased_cka,
    debiased_cka_leave_out,
    debiased_cka_matrix,
    number_groups,
    permutation_p_value,
)
from alignx_eval.statistics.jackknife import jackknife


def song_hsic(x, y):
    """Equation 4 of Song et al. 2012, in float64, line by line."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    ones = np.ones(n)
    return (
        np.trace(k @ m)
        + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (ones @ k @ m @ ones)
    ) / (n * (n - 3))


def naive_debiased(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return song_hsic(x, y) / math.sqrt(song_hsic(x, x) * song_hsic(y, y))


def feature_space_biased(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def dependent(generator, n, d, noise=1.0, rank=5):
    shared = generator.normal(size=(n, rank))
    return [
        shared @ generator.normal(size=(rank, d)) + noise * generator.normal(size=(n, d)) + generator.normal(size=d)
        for _ in range(2)
    ]


def test_equals_the_papers_in_both_spaces():
    x, y = dependent(np.random.default_rng(0), 40, 30)
    assert debiased_cka(x, y) == pytest.approx(naive_debiased(x, y), abs=1e-9)
    assert debiased_cka(x, y) == pytest.approx(feature_space_debiased(x, y), abs=1e-9)
    assert biased_cka(x, y) == pytest.approx(feature_space_biased(x, y), abs=1e-9)
    assert debiased_cka(x.astype(np.float32), y.astype(np.float32)) == pytest.approx(naive_debiased(x, y), abs=1e-5)


@pytest.mark.parametrize("lines", [32, 100, 500])
def test_R1_independent_noise_is_zero(lines):
    generator = np.random.default_rng(lines)
    draws = []
    for _ in range(20 if lines < 500 else 1):
        x, y = generator.normal(size=(2, lines, 1024)).astype(np.float32)
        draws.append(debiased_cka(x, y))
    assert abs(np.mean(draws)) < 0.05  # one draw of 32 lines has a standard deviation of 0.046 of its own
    assert np.abs(draws).max() < 4.5 * cka.null_standard_deviation(lines)
    assert biased_cka(x, y) > 0.6  # why the biased form has its own name and gates nothing


def test_R2_bootstrap_lifts_what_the_jackknife_does_not():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 80, 512))
    rows = generator.integers(0, 80, 80)
    assert debiased_cka(x[rows], y[rows]) > 0.3
    point, values = debiased_cka_leave_out(centred_gram(x), centred_gram(y))
    assert np.abs(values - point).max() < 0.02
    same = jackknife(*debiased_cka_leave_out(centred_gram(x), centred_gram(x)))
    assert same.value == pytest.approx(1) and same.se == pytest.approx(0, abs=1e-6) and same.ci_low <= 1 + 1e-9


@pytest.mark.parametrize("bad", [np.zeros((10, 4)), np.full((10, 4), 3.3), np.full((10, 4), 1e6, np.float32)])
def test_R3_constant_is_undefined(bad):
    other = np.random.default_rng(0).normal(size=(10, 4))
    for function in (debiased_cka, biased_cka):
        with pytest.raises(ValueError, match="undefined"):
            function(bad, other)
    matrix = debiased_cka_matrix(np.stack([other, bad, other]).astype(np.float32))
    assert (
        np.isnan(matrix[1]).all() and np.isnan(matrix[:, 1]).all() and np.isfinite(matrix[[0, 0, 2], [0, 2, 2]]).all()
    )


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_R3_too_few_lines(lines):
    x = np.random.default_rng(0).normal(size=(lines, 8))
    with pytest.raises(ValueError, match="at least 4 lines"):
        debiased_cka(x, x)


def test_R3_leave_out_needs_four_lines_too():
    x = np.random.default_rng(0).normal(size=(6, 8))
    with pytest.raises(ValueError, match="too few lines"):
        debiased_cka_leave_out(
            centred_gram(x, np.array([0, 0, 0, 1, 1, 1])), centred_gram(x, np.array([0, 0, 0, 1, 1, 1]))
        )
    with pytest.raises(ValueError, match="same lines"):
        debiased_cka(x, x[:5])


def test_R4_negative_values_are_kept():
    values = [debiased_cka(*np.random.default_rng(seed).normal(size=(2, 30, 50))) for seed in range(20)]
    assert min(values) < 0 < max(values)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), shift=st.floats(-50, 50))
def test_R5_invariances(seed, scale, shift):
    generator = np.random.default_rng(seed)
    x, y = dependent(generator, 25, 8)
    rotation = np.linalg.qr(generator.normal(size=(8, 8)))[0]
    value = debiased_cka(x, y)
    assert debiased_cka(x @ rotation, y) == pytest.approx(value, abs=1e-7)
    assert debiased_cka(scale * x + shift, y) == pytest.approx(value, abs=1e-5)
    assert debiased_cka(y, x) == pytest.approx(value, abs=1e-9)
    order = generator.permutation(25)
    assert debiased_cka(x[order], y[order]) == pytest.approx(value, abs=1e-9)
    assert debiased_cka(x, x) == pytest.approx(1)
    assert -1 - 1e-9 <= value <= 1 + 1e-9


def test_R5_what_must_change_it():
    generator = np.random.default_rng(0)
    x, y = dependent(generator, 200, 16, noise=0.3)
    value = debiased_cka(x, y)
    assert abs(debiased_cka(x, y[generator.permutation(200)])) < 0.1 < value
    assert abs(debiased_cka(x * np.geomspace(1, 30, 16), y) - value) > 0.02  # an affine map is not a rotation


def test_R8_length_dimension_fakes_alignment():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 300, 64))
    length = 40 * generator.normal(size=300)
    x[:, 0], y[:, 0] = length, length + generator.normal(size=300)
    assert debiased_cka(x, y) > 0.95
    assert abs(debiased_cka(x[:, 1:], y[:, 1:])) < 0.05
    from alignx_eval.measures.cosine import largest_dimensions

    assert largest_dimensions(x, y, count=1).tolist() == [0]  # the sensitivity column would take this one out


def test_R16_null_mean_is_zero_and_its_spread_is_known():
    generator = np.random.default_rng(0)
    x, y = dependent(generator, 40, 12, noise=0.3)
    assert debiased_cka(x, y) > 0.3
    draws = np.array([debiased_cka(x, y[generator.permutation(40)]) for _ in range(1500)])
    assert draws.mean() == pytest.approx(0, abs=4 * draws.std() / math.sqrt(1500))
    assert draws.std() == pytest.approx(cka.null_standard_deviation(40), rel=0.1)


def test_R16_permutation_test_is_uniform_on_independent_data():
    generator = np.random.default_rng(0)
    p = np.array(
        [permutation_p_value(*generator.normal(size=(2, 12, 20)), draws=39, generator=generator) for _ in range(400)]
    )
    assert (p <= 0.05).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    assert abs(p.mean() - 0.5125) < 0.06
    x, y = dependent(generator, 40, 12, noise=0.3)
    assert permutation_p_value(x, y, draws=99, generator=generator) == 0.01


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("groups", [None, [0, 1, 1, 2, 0, 3, 3, 3, 4, 5, 5, 6, 7, 8, 9, 9, 9, 9, 10, 11]])
def test_leave_out_equals_recomputing(groups, dtype):
    x, y = (array.astype(dtype) for array in dependent(np.random.default_rng(0), 20, 9))
    codes = np.arange(20) if groups is None else np.array(groups)
    point, values = debiased_cka_leave_out(centred_gram(x, codes), centred_gram(y, codes))
    tolerance = 1e-9 if dtype == np.float64 else 2e-5
    assert point == pytest.approx(naive_debiased(x, y), abs=tolerance)
    assert len(values) == codes.max() + 1
    for group, value in enumerate(values):
        assert value == pytest.approx(naive_debiased(x[codes != group], y[codes != group]), abs=tolerance)


def test_groups_are_numbered_by_first_appearance():
    assert number_groups(("b", "a", "b", "c")).tolist() == [0, 1, 0, 2]


def test_matrix_equals_pairs():
    vectors = np.stack(dependent(np.random.default_rng(0), 30, 6) + dependent(np.random.default_rng(1), 30, 6)).astype(
        np.float32
    )
    matrix = debiased_cka_matrix(vectors)
    expected = [[naive_debiased(a, b) for b in vectors] for a in vectors]
    np.testing.assert_allclose(matrix, expected, atol=1e-5)


def test_jackknife_interval_covers():
    """The truth is the value of a very large sample; intervals of samples of 120 lines cover it."""
    weights = np.random.default_rng(0).normal(size=(2, 4, 10))

    def draw(generator, n):
        shared = generator.normal(size=(n, 4))
        return [shared @ weight + 1.5 * generator.normal(size=(n, 10)) for weight in weights]

    truth = feature_space_debiased(*draw(np.random.default_rng(1), 200_000))
    covered = 0
    for seed in range(300):
        x, y = draw(np.random.default_rng(100 + seed), 120)
        estimate = jackknife(*debiased_cka_leave_out(centred_gram(x), centred_gram(y)))
        covered += estimate.ci_low <= truth <= estimate.ci_high
    assert covered / 300 >= 0.92


def test_R16_biased_cka_knows_its_mean_over_permutations():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(9, 20))
    y = x[:, :5] + generator.normal(size=(9, 5))
    value, null = biased_cka_with_null(x, y)
    drawn = [biased_cka(x, y[generator.permutation(9)]) for _ in range(4000)]
    assert value == biased_cka(x, y) and value > null
    assert null == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(4000))
