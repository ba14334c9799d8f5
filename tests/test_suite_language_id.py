"""Suite `language_id` on planted vectors and on a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.encoding import make_checkpoint
from helpers.engines import language_id
from helpers.vectors import LANGUAGES, as_vectors, by_key, make_corpus

from alignx_eval.errors import InputError


def planted(monkeypatch, offsets: dict[str, float], lines=60, width=16):
    generator = np.random.default_rng(0)
    direction = generator.normal(size=(3, 1, width))
    content = generator.normal(size=(1, lines, width))
    stacks = {
        name: content + offset * direction + generator.normal(size=(3, lines, width))
        for name, offset in offsets.items()
    }
    monkeypatch.setattr("alignx_eval.engine.transformers_engine.encode_corpus", lambda *_, **__: as_vectors(stacks))


def test_separability_follows_the_planted_offset(monkeypatch):
    planted(monkeypatch, {"0": 2.0, "1": 0.3, "2": 0.0, "3": 0.3, "4": 2.0, "4+norm": 2.0})
    result = language_id.run(make_checkpoint(), make_corpus(lines=60))
    rows = by_key(result)
    curve = [
        rows[f"language_id/probe_balanced_accuracy/{layer}/-/-"].value for layer in ("0", "1", "2", "3", "4", "4+norm")
    ]
    assert curve[0] > 0.95 and curve[4] > 0.95 and abs(curve[2] - 1 / 3) < 0.15
    for last, value in zip(("4", "4+norm"), curve[4:], strict=True):
        row = rows[f"language_id/probe_divergence/{last}/-/-"]
        assert row.value == pytest.approx(value - np.mean(curve[1:4]), abs=1e-6) and row.ci_low > 0
    first = rows["language_id/probe_balanced_accuracy/0/-/-"]
    assert first.chance == pytest.approx(1 / 3) and abs(first.null - 1 / 3) < 0.15
    assert rows["language_id/probe_selectivity/0/-/-"].value == pytest.approx(first.value - first.null, abs=1e-6)
    recalls = [rows[f"language_id/probe_recall/0/{language}/-"].value for language in LANGUAGES]
    assert np.mean(recalls) == pytest.approx(first.value)
    assert rows["language_id/probe_within_script/2/-/-"].chance == 0.5  # English and German; Russian has no rival
    assert rows["language_id/probe_majority/-/-/-"].value == pytest.approx(1 / 3)
    assert all(row.higher_is_better is None for row in result.rows)


def test_tiny_model_rows_are_plain_and_items_agree():
    corpus = make_corpus(lines=30, groups=tuple(f"document-{number // 2}" for number in range(30)))
    result = language_id.run(make_checkpoint(), corpus)
    rows = by_key(result)
    assert len(rows) == len(result.rows)
    for row in result.rows:
        assert row.value is not None and np.isfinite(row.value)
        if row.key in result.items:
            items = result.items[row.key]
            assert items.kind == "mean" and len(items.values) == 30
            assert row.value == pytest.approx(float(items.values.mean(dtype=np.float64)), abs=1e-6)
    json.dumps([result.extras, result.fingerprint, result.environment], allow_nan=False)
    table = np.array(result.extras["maps"][0]["values"])
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=0.01)
    assert result.fingerprint["folds"] == 5
    assert result.fingerprint["start"] == "BOS, else EOS, else none; not pooled; no other special token is added"
    assert result.environment["start_token"] == "BOS <s>"


def test_P6_checkpoints_share_folds_and_labels():
    """A checkpoint against itself: every item the same, so every paired difference is 0."""
    corpus = make_corpus(lines=30)
    one, two = (language_id.run(make_checkpoint(), corpus, seed=5) for _ in range(2))
    assert one.items.keys() == two.items.keys()
    for key, items in one.items.items():
        np.testing.assert_array_equal(items.values, two.items[key].values)
    other = language_id.run(make_checkpoint(), corpus, seed=6)
    assert other.fingerprint != one.fingerprint


def test_P4_script_only_baseline_reads_the_text():
    corpus = make_corpus(lines=30)  # the toy text is Latin in every language, whatever its code says
    rows = by_key(language_id.run(make_checkpoint(), corpus))
    assert rows["language_id/probe_script_only/-/-/-"].value == pytest.approx(1 / 3)


def test_P5_clear_errors():
    with pytest.raises(InputError, match="at least two languages.*eng_Latn"):
        language_id.run(make_checkpoint(), make_corpus(languages=("eng_Latn",)))
    with pytest.raises(InputError, match="two groups"):
        language_id.run(make_checkpoint(), make_corpus(lines=6, groups=("one",) * 6))
