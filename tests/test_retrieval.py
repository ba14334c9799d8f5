"""Retrieval: precision@1, MEXA, xsim's margin; ties, duplicates, chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cosine as scipy_cosine
from sklearn.neighbors import NearestNeighbors

from alignx_eval import measures
from alignx_eval.measures.cosine import cosine_matrix
from alignx_eval.measures.retrieval import (
    accepted_pairs,
    chance_mutual,
    chance_precision,
    hits,
    margin_hits,
    permuted_precision,
)


def mexa_by_definition(x, y):
    """Share of lines whose cosine is strictly above all others of its row and of its column, over scipy cosines."""
    n = len(x)
    matrix = np.array([[1 - scipy_cosine(a, b) for b in y] for a in x])
    count = 0
    for i in range(n):
        others = [matrix[i, j] for j in range(n) if j != i] + [matrix[j, i] for j in range(n) if j != i]
        count += matrix[i, i] > max(others)
    return count / n


def xsim_errors(x, y, k=4):
    """Errors of xsim with the ratio margin, from exact neighbours of scikit-learn."""
    x, y = (array / np.linalg.norm(array, axis=1, keepdims=True) for array in (x, y))

    def neighbours(queries, pool):
        found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(pool).kneighbors(queries, return_distance=False)
        return found, np.einsum("qd,qkd->qk", queries, pool[found])

    forward, cos_forward = neighbours(x, y)
    _, cos_backward = neighbours(y, x)
    errors = 0
    for i in range(len(x)):
        scores = [
            cos_forward[i, j] / ((cos_forward[i].mean() + cos_backward[forward[i, j]].mean()) / 2) for j in range(k)
        ]
        errors += forward[i, int(np.argmax(scores))] != i
    return errors


def noisy_pair(seed, n=80, d=12, noise=0.8):
    generator = np.random.default_rng(seed)
    content = generator.normal(size=(n, d)) + 0.5
    return content + noise * generator.normal(size=(n, d)), content + noise * generator.normal(size=(n, d))


@pytest.mark.parametrize("seed", range(3))
def test_equals_mexa_and_xsim_by_definition(seed):
    x, y = noisy_pair(seed)
    similarity = cosine_matrix(x, y)
    found = hits(similarity)
    assert 0.05 < found.mutual.mean() < 0.95
    assert found.mutual.mean() == pytest.approx(mexa_by_definition(x, y))
    assert 80 - margin_hits(similarity).sum() == xsim_errors(x, y)
    assert 80 - margin_hits(similarity.T).sum() == xsim_errors(y, x)
    assert found.forward.tolist() == (similarity.argmax(1) == np.arange(80)).tolist()
    assert found.backward.tolist() == (similarity.argmax(0) == np.arange(80)).tolist()
    assert found.mutual.tolist() == (found.forward & found.backward).tolist()


def test_R15_ties_are_no_hits():
    equal = np.ones((10, 4))
    found = hits(cosine_matrix(equal, equal))
    assert not found.forward.any() and not found.backward.any() and not found.mutual.any()
    assert not margin_hits(cosine_matrix(equal, equal)).any()
    one_tie = np.array([[0.5, 0.5, 0.1], [0.2, 0.9, 0.1], [0.0, 0.1, 0.7]])
    assert hits(one_tie).forward.tolist() == [False, True, True]


def test_R15_duplicates_are_right():
    x, y = noisy_pair(0, noise=0.01)
    x[7], y[7] = x[3], y[3]  # the same sentence pair twice
    x_texts, y_texts = [f"x{i}" for i in range(80)], [f"y{i}" for i in range(80)]
    x_texts[7], y_texts[7] = x_texts[3], y_texts[3]
    accepted = accepted_pairs(x_texts, y_texts)
    assert sorted(zip(*accepted, strict=True)) == [(3, 7), (7, 3)]
    similarity = cosine_matrix(x, y)
    without, with_texts = hits(similarity), hits(similarity, accepted)
    assert not without.forward[[3, 7]].any()
    assert with_texts.forward.all() and with_texts.backward.all() and with_texts.mutual.all()
    assert margin_hits(similarity, accepted).all()
    # Only one side repeated: "Open" may be translated in two ways, and either is right for it.
    assert sorted(zip(*accepted_pairs(["a", "a", "b"], ["1", "2", "3"]), strict=True)) == [(0, 1), (1, 0)]
    # A duplicate of a wrong answer stays wrong.
    wrong = np.array([[0.1, 0.9, 0.9], [0.0, 0.8, 0.8], [0.0, 0.8, 0.8]])
    assert hits(wrong, accepted_pairs(["a", "b", "b"], ["1", "2", "2"])).forward.tolist() == [False, True, True]


def test_R15_inputs_are_unchanged():
    x, y = noisy_pair(1)
    similarity = cosine_matrix(x, y)
    before = similarity.copy()
    hits(similarity)
    margin_hits(similarity)
    permuted_precision(similarity)
    np.testing.assert_array_equal(similarity, before)


def test_R15_margin_divides_hubs_out():
    """One pool vector near to every query wins by cosine; the ratio margin gives the queries back."""
    generator = np.random.default_rng(0)
    similarity = 0.6 + 0.01 * generator.normal(size=(50, 50))
    similarity[np.diag_indices(50)] = 0.8
    similarity[:, 0] = 0.85
    assert hits(similarity).forward.mean() < 0.1
    assert margin_hits(similarity).mean() > 0.9


def test_R15_chance_levels():
    generator = np.random.default_rng(0)
    n, found = 6, []
    for _ in range(4000):
        found.append(hits(generator.normal(size=(n, n))))
    assert np.mean([each.forward.mean() for each in found]) == pytest.approx(chance_precision(n), abs=0.012)
    assert np.mean([each.mutual.mean() for each in found]) == pytest.approx(chance_mutual(n), abs=0.012)
    assert chance_mutual(n) == pytest.approx(1 / 11)
    accepted = accepted_pairs(["a", "a", "b", "c"], ["1", "2", "3", "4"])
    assert chance_precision(4, accepted) == pytest.approx((2 + 2 + 1 + 1) / 16)


def test_R16_permuted_precision_is_the_mean_over_permutations():
    import itertools

    similarity = np.random.default_rng(0).normal(size=(5, 5))
    similarity[0, :2] = similarity.max() + 1  # a tie: no hit in any pairing
    for axis in (0, 1):
        scores = []
        for order in itertools.permutations(range(5)):
            permuted = similarity[:, list(order)]
            scores.append((hits(permuted).forward if axis == 1 else hits(permuted).backward).mean())
        assert permuted_precision(similarity, axis=axis) == pytest.approx(np.mean(scores))


def test_single_and_few_lines():
    assert margin_hits(np.array([[0.9, 0.1], [0.2, 0.8]])).tolist() == [True, True]
    assert hits(np.array([[0.5]])).mutual.tolist() == [True]


def test_public_measures_take_arrays_and_give_numbers():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 5))
    y = x + generator.normal(size=(40, 5))
    pool = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(y)
    nearest = pool.kneighbors(x, return_distance=False)[:, 0]
    assert measures.precision_at_1(x, y) == np.mean(nearest == np.arange(40)) != measures.precision_at_1(y, x)
    np.testing.assert_allclose(measures.paired_cosine(x, y), np.diagonal(measures.cosine_matrix(x, y)))
    assert measures.debiased_cka(x, x) == pytest.approx(1) and measures.biased_cka(x, y) > measures.debiased_cka(x, y)
    assert set(measures.__all__) <= set(dir(measures))
    for wrong in (x[:3], x[:0]):
        with pytest.raises(ValueError, match="the same lines: got"):
            measures.precision_at_1(wrong, y[: len(wrong) // 2])
    with pytest.raises(AttributeError, match="no attribute 'precision'"):
        _ = measures.precision
