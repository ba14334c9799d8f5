"""Cosine: raw, centred, standardised; robustness columns."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cosine as scipy_cosine

from alignx_eval.measures.cosine import (
    centre,
    cosine_matrix,
    has_direction,
    largest_dimension_share,
    largest_dimensions,
    paired_cosine,
    standardised,
    unit,
    wrong_pair_mean,
)


def test_equals_scipy_and_leaves_inputs_alone():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(7, 5)), generator.normal(size=(6, 5))
    before = x.copy(), y.copy()
    expected = [[1 - scipy_cosine(a, b) for b in y] for a in x]
    np.testing.assert_allclose(cosine_matrix(x, y), expected, atol=1e-12)
    np.testing.assert_allclose(paired_cosine(x[:6], y), np.diagonal(expected), atol=1e-12)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_zero_vector_has_cosine_zero_and_is_known():
    x = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, -1.0]])
    assert np.isfinite(unit(x)).all()
    assert paired_cosine(x, x).tolist() == pytest.approx([0, 1, 1])
    assert not has_direction(x, x)
    constant = np.full((4, 3), 7.1, dtype=np.float32)
    assert not has_direction(centre(constant), constant)
    assert has_direction(centre(x), x[::-1] + 1)


def test_R6_anisotropy_and_language_offset():
    generator = np.random.default_rng(0)
    common = 10 * generator.normal(size=64)
    unrelated = [common + generator.normal(size=(400, 64)) for _ in range(2)]
    assert paired_cosine(*unrelated).mean() > 0.95
    assert abs(paired_cosine(centre(unrelated[0]), centre(unrelated[1])).mean()) < 0.05
    z, _ = standardised(cosine_matrix(*unrelated), np.arange(400))
    assert abs(z) < 0.2
    # The opposite error: the same content, moved by an offset per language.
    content = generator.normal(size=(400, 64))
    moved = [content + 3 * generator.normal(size=64) for _ in range(2)]
    assert paired_cosine(*moved).mean() < 0.4
    assert paired_cosine(centre(moved[0]), centre(moved[1])).mean() == pytest.approx(1)
    assert standardised(cosine_matrix(*moved), np.arange(400))[0] > 1


def test_R7_one_huge_dimension():
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(2, 200, 64))
    x[:, 42] += 300
    y[:, 42] += 300
    assert paired_cosine(x, y).mean() > 0.99
    assert abs(paired_cosine(centre(x), centre(y)).mean()) < 0.1
    assert largest_dimensions(x, y, count=2)[0] == 42
    assert largest_dimension_share(x, 1) > 0.99
    assert largest_dimension_share(np.zeros((3, 4)), 1) == 0
    rest = np.delete(np.arange(64), largest_dimensions(x, y, count=1))
    assert abs(paired_cosine(x[:, rest], y[:, rest]).mean()) < 0.1


def test_R16_wrong_pair_mean_is_the_mean_over_derangements():
    generator = np.random.default_rng(2)
    similarity = generator.normal(size=(4, 4))
    import itertools

    derangements = [order for order in itertools.permutations(range(4)) if all(order[i] != i for i in range(4))]
    expected = np.mean([similarity[np.arange(4), list(order)].mean() for order in derangements])
    assert wrong_pair_mean(similarity) == pytest.approx(expected)


@pytest.mark.parametrize("groups", [np.arange(12), np.array([0, 1, 1, 2, 0, 3, 3, 3, 4, 5, 5, 1])])
def test_standardised_leave_out_equals_recomputing(groups):
    similarity = np.random.default_rng(3).normal(size=(12, 12))
    similarity[np.diag_indices(12)] += 2

    def plainly(matrix):
        off = matrix[~np.eye(len(matrix), dtype=bool)]
        return (np.diagonal(matrix).mean() - off.mean()) / off.std()

    point, values = standardised(similarity, groups)
    assert point == pytest.approx(plainly(similarity))
    for group, value in enumerate(values):
        kept = groups != group
        assert value == pytest.approx(plainly(similarity[np.ix_(kept, kept)]))


def test_standardised_of_equal_vectors_is_undefined():
    ones = np.ones((6, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="do not vary"):
        standardised(cosine_matrix(ones, ones), np.arange(6))
