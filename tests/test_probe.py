"""The language probe against scikit-learn, its folds, its control task and its baselines."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from alignx_eval.measures.probe import (
    SHRINKAGE,
    confusion,
    control_labels,
    dominant_script,
    grouped_folds,
    language_probe,
    script_only,
)


def made_up(seed=0, languages=4, lines=60, width=12, offset=0.8):
    """Content shared by the translations of a line, an offset per language, noise; dimensions of very different
    scale."""
    generator = np.random.default_rng(seed)
    content = generator.normal(size=(1, lines, width))
    vectors = (
        content
        + offset * generator.normal(size=(languages, 1, width))
        + generator.normal(size=(languages, lines, width))
    )
    return (vectors * np.geomspace(0.01, 100, width) + 5).astype(np.float32)


def folds_of(lines, seed=0, count=5):
    return grouped_folds(np.arange(lines), count, np.random.default_rng(seed))


def labels_of(vectors, seed=1):
    return control_labels(*vectors.shape[:2], np.random.default_rng(seed))


def test_P2_equals_scikit_learn_with_the_scaler_inside_the_fold():
    vectors = made_up()
    languages, lines, _ = vectors.shape
    folds, control = folds_of(lines), labels_of(vectors)
    found = language_probe(vectors, folds, control, ["Latn"] * languages)
    truth = np.tile(np.arange(languages)[:, None], (1, lines))
    for labels, ours in ((truth, found.correct), (control, found.control)):
        expected = np.zeros((languages, lines), dtype=bool)
        for fold in range(5):
            train, test = folds != fold, folds == fold
            model = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE))
            model.fit(vectors[:, train].reshape(-1, vectors.shape[2]).astype(np.float64), labels[:, train].reshape(-1))
            predictions = model.predict(vectors[:, test].reshape(-1, vectors.shape[2]).astype(np.float64)).reshape(
                languages, -1
            )
            expected[:, test] = predictions == labels[:, test]
        assert (ours == expected).mean() > 0.99  # a near tie may fall to either side in float32
    assert 0.5 < found.correct.mean() < 1


def test_P2_nothing_of_the_test_fold_is_seen_in_training():
    vectors = made_up()
    folds, control = folds_of(60), labels_of(vectors)
    before = language_probe(vectors, folds, control, ["Latn"] * 4)
    spoilt = vectors.copy()
    line = int(np.flatnonzero(folds == 2)[0])
    spoilt[:, line] *= 50
    after = language_probe(spoilt, folds, control, ["Latn"] * 4)
    rest = (folds == 2) & (np.arange(60) != line)
    np.testing.assert_array_equal(before.predicted[:, rest], after.predicted[:, rest])
    assert (before.predicted[:, folds != 2] != after.predicted[:, folds != 2]).any()  # the others did train on it


def test_P1_grouped_folds_do_not_leak_content():
    """Documents with content that tells the label to whoever has seen the document: random folds profit, grouped ones
    do not."""
    generator = np.random.default_rng(0)
    documents, per_document, width = 30, 6, 40
    groups = np.repeat(np.arange(documents), per_document)
    # In every document each language has its own, document-specific vector; across documents nothing is shared.
    own = generator.normal(size=(3, documents, width))
    vectors = (own[:, groups] + 0.1 * generator.normal(size=(3, len(groups), width))).astype(np.float32)
    grouped = grouped_folds(groups, 5, np.random.default_rng(1))
    random = np.empty(len(groups), dtype=np.int64)
    for fold, (_, test) in enumerate(KFold(5, shuffle=True, random_state=0).split(groups)):
        random[test] = fold
    control = labels_of(vectors)
    leaked = language_probe(vectors, random, control, ["Latn"] * 3).correct.mean()
    honest = language_probe(vectors, grouped, control, ["Latn"] * 3).correct.mean()
    assert leaked > 0.6
    assert honest < 0.45


def test_P1_folds_keep_groups_together_and_are_even():
    groups = np.array([0, 0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 9])
    folds = grouped_folds(groups, 3, np.random.default_rng(0))
    assert all(len(set(folds[groups == group])) == 1 for group in range(10))
    assert np.bincount(folds).tolist() == [5, 5, 5]
    assert grouped_folds(np.array([0, 0, 1]), 5, np.random.default_rng(0)).max() == 1
    with pytest.raises(ValueError, match="2 groups"):
        grouped_folds(np.zeros(9, dtype=int), 5, np.random.default_rng(0))


def test_P3_control_task_is_at_chance_even_when_it_can_be_memorised():
    vectors = made_up(lines=20, width=400, offset=2)  # 64 training rows, 400 dimensions
    control = labels_of(vectors)
    assert all(sorted(column) == [0, 1, 2, 3] for column in control.T)
    found = language_probe(vectors, folds_of(20), control, ["Latn"] * 4)
    assert found.control_fit > 0.9  # capacity: random labels are learnt by heart
    assert abs(found.control.mean() - 0.25) < 0.2  # and tell nothing about other lines
    assert found.correct.mean() - found.control.mean() > 0.5


def test_P4_script_alone():
    texts = [["one two", "three", "four 4"], ["eins", "zwei", "drei"], ["один", "два", "три"], ["一", "二", "三"]]
    folds = np.array([0, 1, 2])
    right = script_only(texts, folds)
    assert right.mean(axis=1).tolist() == [1, 0, 1, 1]  # of two Latin languages the first is guessed
    assert [dominant_script(text) for text in ("abc где", "где abcd", "房子a屋", "123 !", "")] == [
        "LATIN",
        "LATIN",
        "CJK",
        "",
        "",
    ]
    # Languages that differ in script only: read perfectly, but within a script at chance.
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(4, 80, 6)).astype(np.float32)
    vectors[2:, :, 0] += 20
    found = language_probe(vectors, folds_of(80), labels_of(vectors), ["Latn", "Latn", "Cyrl", "Cyrl"])
    assert abs(found.within_script.mean() - 0.5) < 0.1
    assert abs(found.correct.mean() - 0.5) < 0.1
    assert (
        language_probe(vectors, folds_of(80), labels_of(vectors), ["Latn", "Cyrl", "Grek", "Hans"]).within_script
        is None
    )


def test_P5_one_language_and_wrong_sizes():
    vectors = made_up()
    with pytest.raises(ValueError, match="at least 2 languages"):
        language_probe(vectors[:1], folds_of(60), labels_of(vectors[:1]), ["Latn"])
    with pytest.raises(ValueError, match="do not fit"):
        language_probe(vectors, folds_of(59), labels_of(vectors), ["Latn"] * 4)


def test_P5_vectors_that_say_nothing_are_at_chance():
    for constant in (0.0, 3.7):
        vectors = np.full((3, 30, 8), constant, dtype=np.float32)
        found = language_probe(vectors, folds_of(30), labels_of(vectors), ["Latn"] * 3)
        assert found.correct.mean() == pytest.approx(1 / 3)
    lone = np.repeat(np.eye(3, 5, dtype=np.float32)[:, None], 30, axis=1)  # no spread within a language at all
    assert language_probe(lone, folds_of(30), labels_of(lone), ["Latn"] * 3).correct.all()


def test_P6_same_seed_same_split_and_labels():
    assert folds_of(50, seed=3).tolist() == folds_of(50, seed=3).tolist() != folds_of(50, seed=4).tolist()
    vectors = made_up()
    one, two = (language_probe(vectors, folds_of(60), labels_of(vectors), ["Latn"] * 4) for _ in range(2))
    np.testing.assert_array_equal(one.predicted, two.predicted)
    np.testing.assert_array_equal(one.control, two.control)


def test_confusion_counts():
    assert confusion(np.array([[0, 0, 1], [1, 1, 1]])).tolist() == [[2, 1], [0, 3]]
