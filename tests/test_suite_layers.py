"""Suite `layers` on planted vectors (known answers) and on a tiny model."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.encoding import make_checkpoint, sink_checkpoint
from helpers.engines import layers
from helpers.vectors import LANGUAGES, as_vectors, by_key, make_corpus

from alignx_eval.errors import InputError
from alignx_eval.measures.cka import debiased_cka
from alignx_eval.measures.cosine import centre, cosine_matrix, paired_cosine
from alignx_eval.suites import layer_pictures


@pytest.fixture(scope="module")
def tiny():
    checkpoint, corpus = (
        make_checkpoint("llama"),
        make_corpus(groups=tuple(f"document-{number // 3}" for number in range(40))),
    )
    return checkpoint, corpus, layers.run(checkpoint, corpus)


def planted(monkeypatch, stacks: dict[str, np.ndarray], **options):
    """Let the suite see the given vectors, layer name -> [languages, lines, width]."""
    monkeypatch.setattr(
        "alignx_eval.engine.transformers_engine.encode_corpus", lambda *_, **__: as_vectors(stacks, **options)
    )


def align_then_diverge(lines=40, width=24):
    """Layers 0 to 4: translations apart, close in the middle, apart again."""
    generator = np.random.default_rng(0)
    content = generator.normal(size=(lines, width))
    noise = {"0": 4, "1": 2, "2": 0.3, "3": 2, "4": 6, "4+norm": 6}
    return {name: content + level * generator.normal(size=(3, lines, width)) for name, level in noise.items()}


def test_rows_are_complete_and_plain(tiny):
    checkpoint, corpus, result = tiny
    rows = by_key(result)
    assert len(rows) == len(result.rows)  # no key twice
    for layer in ("0", "1", "2", "3", "3+norm"):
        for language in LANGUAGES[1:]:
            for metric in ("cosine", "cosine_centred", "cosine_z", "cka_debiased", "mutual_nearest_neighbour"):
                assert rows[f"layers/{metric}/{layer}/{language}/eng_Latn"].n == 40
            for metric in ("precision_at_1", "precision_at_1_centred", "ratio_margin"):
                for pair in (f"{language}/eng_Latn", f"eng_Latn/{language}"):
                    assert rows[f"layers/{metric}/{layer}/{pair}"].chance == pytest.approx(1 / 40)
        for metric in ("cosine", "cka_debiased", "precision_at_1"):
            assert f"layers/{metric}/{layer}/-/-" in rows
    assert rows["layers/mutual_nearest_neighbour/1/deu_Latn/eng_Latn"].chance == pytest.approx(1 / 79)
    for metric in ("precision_at_1_token_overlap", "precision_at_1_length"):
        assert rows[f"layers/{metric}/-/deu_Latn/eng_Latn"].higher_is_better is None
    for row in result.rows:
        numbers = [row.value, row.se, row.ci_low, row.ci_high, row.null, row.chance]
        assert all(number is None or np.isfinite(number) for number in numbers)
        assert (row.value is None) == (row.reason is not None)
    json.dumps(
        {"extras": result.extras, "fingerprint": result.fingerprint, "environment": result.environment}, allow_nan=False
    )
    assert result.item_ids == corpus.ids and result.default_clusters == corpus.groups
    assert set(result.items) <= set(rows)
    assert {len(column) for column in result.extras["pairs"].values()} == {5 * 3}


def test_values_are_those_of_the_items(tiny):
    _, corpus, result = tiny
    documents = len(set(corpus.groups))
    for row in result.rows:
        items = result.items.get(row.key)
        if items is None or row.value is None:
            continue
        if items.kind == "peak":
            assert row.value == items.values.sum(axis=0).argmax() and row.ci_low <= row.value <= row.ci_high
        elif items.kind == "mean":
            assert len(items.values) == len(corpus)
            assert row.value == pytest.approx(float(items.values.mean(dtype=np.float64)), abs=1e-6)
        else:
            assert items.kind == "jackknife" and len(items.values) == documents
            assert row.value == pytest.approx(items.point)
            assert items.values.mean() == pytest.approx(row.value, abs=0.2 * max(1, abs(row.value)))


def test_values_equal_the_measures(monkeypatch):
    stacks = align_then_diverge()
    planted(monkeypatch, stacks)
    corpus = make_corpus()
    rows = by_key(layers.run(make_checkpoint(), corpus))
    x, pivot = stacks["2"][1].astype(np.float32), stacks["2"][0].astype(np.float32)
    assert rows["layers/cosine/2/deu_Latn/eng_Latn"].value == pytest.approx(paired_cosine(x, pivot).mean(), abs=1e-6)
    assert rows["layers/cosine_centred/2/deu_Latn/eng_Latn"].value == pytest.approx(
        paired_cosine(centre(x), centre(pivot)).mean(), abs=1e-6
    )
    assert rows["layers/cka_debiased/2/deu_Latn/eng_Latn"].value == pytest.approx(debiased_cka(x, pivot), abs=1e-5)
    similarity = cosine_matrix(x, pivot)
    assert rows["layers/precision_at_1/2/deu_Latn/eng_Latn"].value == pytest.approx(
        (similarity.argmax(1) == np.arange(40)).mean()
    )
    assert rows["layers/precision_at_1/2/eng_Latn/deu_Latn"].value == pytest.approx(
        (similarity.argmax(0) == np.arange(40)).mean()
    )


def test_align_then_diverge_is_summarised(monkeypatch):
    planted(monkeypatch, align_then_diverge())
    result = layers.run(make_checkpoint(), make_corpus())
    rows = by_key(result)
    assert rows["layers/peak_layer/-/-/-"].value == 2
    assert rows["layers/precision_at_1_peak/-/-/-"].value == rows["layers/precision_at_1/2/-/-"].value > 0.9
    gain = rows["layers/precision_at_1_middle_gain/-/-/-"]
    curve = [rows[f"layers/precision_at_1/{layer}/-/-"].value for layer in ("0", "1", "2", "3", "4", "4+norm")]
    assert gain.value == pytest.approx(np.mean(curve[1:4]) - curve[0], abs=1e-6) and gain.ci_low > 0
    for last, value in zip(("4", "4+norm"), curve[4:], strict=True):
        row = rows[f"layers/precision_at_1_divergence/{last}/-/-"]
        assert (
            row.value == pytest.approx(curve[2] - value, abs=1e-6) and row.ci_low > 0 and row.higher_is_better is None
        )
    assert rows["layers/cka_debiased_divergence/4/-/-"].ci_low > 0
    assert result.extras["recommended_align_layer"] == 2
    for metric in ("peak_layer", "peak_layer_centred"):
        row = rows[f"layers/{metric}/-/-/-"]
        assert (row.value, row.ci_low, row.ci_high, row.higher_is_better) == (2, 2, 2, None)
    (note,) = [note for note in result.notes if "align layer" in note]
    assert note.startswith("Recommended align layer: 2. Raw precision@1 is highest in layer 2 [2, 2], with ")
    heights = [rows[f"layers/{metric}/2/-/-"] for metric in ("precision_at_1", "precision_at_1_centred")]
    for height in heights:
        assert f"with {height.value:.3f} [{height.ci_low:.3f}, {height.ci_high:.3f}]" in note
    assert "centred precision@1 is highest in layer 2 [2, 2]" in note and "n = 40" in note


def peaked(depth: int, raw: int, centred: int) -> dict[str, np.ndarray]:
    """`depth` blocks; the raw curve is highest in layer `raw`, the centred one in layer `centred`.

    The mean vector of each language, which hides what they share from the raw cosine, is far from the others in all
    layers but `raw`.
    """
    generator = np.random.default_rng(0)
    content = generator.normal(size=(40, 24))
    stacks = {}
    for layer in range(depth + 1):
        noise = {centred: 0.1, raw: 0.9}.get(layer, 6)
        offset = 0 if layer == raw else 30 * generator.normal(size=(3, 1, 24))
        stacks[str(layer)] = content + noise * generator.normal(size=(3, 40, 24)) + offset
    return stacks | {f"{depth}+norm": stacks[str(depth)]}


@pytest.mark.parametrize(
    ("raw", "centred", "recommended", "why"),
    [
        (5, 5, 5, ""),
        (5, 7, 7, ""),  # a fifth of ten layers apart
        (7, 4, None, "the two peaks are more than a fifth of the 10 layers apart"),
        (0, 1, None, "layer 0 and the last layer are no candidates"),
        (1, 0, None, "layer 0 and the last layer are no candidates"),
        (10, 9, None, "layer 0 and the last layer are no candidates"),
        (0, 0, None, "layer 0 and the last layer are no candidates"),
    ],
)
def test_an_align_layer_is_recommended_only_where_both_curves_agree_on_a_middle_layer(
    monkeypatch, raw, centred, recommended, why
):
    planted(monkeypatch, peaked(10, raw, centred))
    result = layers.run(make_checkpoint(), make_corpus())
    rows = by_key(result)
    assert (rows["layers/peak_layer/-/-/-"].value, rows["layers/peak_layer_centred/-/-/-"].value) == (raw, centred)
    assert result.extras.get("recommended_align_layer") == recommended
    (note,) = [note for note in result.notes if "align layer" in note]
    begin = "No align layer is recommended: " if recommended is None else f"Recommended align layer: {recommended}. "
    assert note.startswith(begin + why)
    for name, layer in (("Raw", raw), ("centred", centred)):  # both are named, with their intervals
        assert re.search(rf"{name} precision@1 is highest in layer {layer} \[\d+, \d+\], with \d\.\d+ \[", note)


def test_no_align_layer_is_recommended_where_a_curve_has_no_peak(monkeypatch):
    stacks = align_then_diverge()
    stacks["3"][:, 0] = stacks["3"].mean(axis=1)  # a sentence without a centred direction
    stacks["1"][:] = 2.5
    planted(monkeypatch, stacks)
    result = layers.run(make_checkpoint(), make_corpus())
    assert "recommended_align_layer" not in result.extras
    (note,) = [note for note in result.notes if "align layer" in note]
    assert note.startswith(
        "No align layer is recommended: both curves must have a peak. Raw precision@1 is highest in layer 2 "
    )
    assert "centred precision@1 is undefined in some layer" in note


def test_the_share_of_one_token_is_reported_for_each_layer_with_a_warning(monkeypatch):
    planted(monkeypatch, align_then_diverge(), shares=[0.2, 0.9, 0.7, 0.3, 0.51, 0.5])
    result = layers.run(make_checkpoint(), make_corpus())
    found = {row.layer: row for row in result.rows if row.metric == "largest_token_share"}
    assert [row.value for row in found.values()] == pytest.approx([0.2, 0.9, 0.7, 0.3, 0.51, 0.5])
    assert list(found) == ["0", "1", "2", "3", "4", "4+norm"]
    assert all((row.higher_is_better, row.language, row.n) == (None, None, 40) for row in found.values())
    assert found["1"].method == "mean over 120 sentences of at least 8 tokens, no interval"
    (warning,) = result.warnings
    assert warning.startswith("In layers 1 to 2, 4 one token holds on average up to 90.0% of a sentence's squared norm")
    assert layers.run(make_checkpoint(), make_corpus(), pooling="last").warnings == []  # it takes one token anyway
    planted(monkeypatch, align_then_diverge(), shares=[0.2, 0.9, 0.3, 0.3, 0.4, 0.5])
    (warning,) = layers.run(make_checkpoint(), make_corpus()).warnings
    assert warning.startswith("In layer 1 one token holds on average 90.0% of a sentence's squared norm: ")


def test_sentences_of_few_tokens_do_not_count_for_the_share_of_one(monkeypatch):
    counts = np.where(np.arange(40) < 10, 8, 7)
    vectors = as_vectors(align_then_diverge(), token_counts=counts)
    vectors.largest_token_share = {
        language: np.broadcast_to(np.where(counts == 8, 0.1 * (index + 1), 0.9), (6, 40))
        for index, language in enumerate(LANGUAGES)
    }
    monkeypatch.setattr("alignx_eval.engine.transformers_engine.encode_corpus", lambda *_, **__: vectors)
    result = layers.run(make_checkpoint(), make_corpus())
    row = by_key(result)["layers/largest_token_share/2/-/-"]
    assert (row.value, row.n) == (pytest.approx(0.2), 10) and result.warnings == []
    planted(monkeypatch, align_then_diverge(), token_counts=7, shares=0.9)
    result = layers.run(make_checkpoint(), make_corpus())
    row = by_key(result)["layers/largest_token_share/2/-/-"]
    assert (row.value, row.reason) == (None, "no sentence has 8 tokens or more") and result.warnings == []


def test_R9_the_start_token_is_told_and_a_sink_without_one_is_warned_of(tmp_path):
    """A model with a sink at the first position: with a start token nothing is to be seen of it, without one the first
    word is the sink."""
    corpus = make_corpus(lines=12)
    for run in range(2):  # the second reads everything from the cache
        result = layers.run(sink_checkpoint(bos=False), corpus, cache_dir=tmp_path)
        assert result.environment["start_token"] == "BOS <s>" and result.warnings == []
        assert result.fingerprint["start"] == "BOS, else EOS, else none; not pooled; no other special token is added"
        assert not any("start token" in note for note in result.notes)
        checkpoint = sink_checkpoint(bos=False, bos_token=None, eos_token=None)
        checkpoint.content_hash = "another tokenizer"
        without = layers.run(checkpoint, corpus, cache_dir=tmp_path)
        assert without.environment["start_token"] == "none" and without.fingerprint == result.fingerprint
        assert [warning.partition(" one token")[0] for warning in without.warnings] == ["In layers 0 to 3"], run
        assert any("tiny has neither a BOS nor an EOS token: no start token" in note for note in without.notes)
    assert layers.run(sink_checkpoint(bos=False, bos_token=None), corpus).environment["start_token"] == "EOS </s>"


def test_R8_one_dimension_of_length_is_told_by_the_rows_without_it(monkeypatch):
    generator = np.random.default_rng(0)
    length = generator.gamma(2, size=(1, 40, 1))
    stacks = {name: generator.normal(size=(3, 40, 24)) for name in ("0", "1", "1+norm")}
    stacks["1"] = np.concatenate([60 * length + 0.01 * generator.normal(size=(3, 40, 1)), stacks["1"]], axis=2)
    stacks = {name: np.pad(stack, ((0, 0), (0, 0), (0, 25 - stack.shape[2]))) for name, stack in stacks.items()}
    planted(monkeypatch, stacks)
    rows = by_key(layers.run(make_checkpoint(), make_corpus()))
    assert rows["layers/cka_debiased/1/deu_Latn/eng_Latn"].value > 0.95  # "aligned"
    trimmed = rows["layers/cka_debiased_without_largest/1/deu_Latn/eng_Latn"]
    assert abs(trimmed.value) < 0.1 and trimmed.higher_is_better is None
    assert rows["layers/precision_at_1_without_largest/1/deu_Latn/eng_Latn"].value < 0.2


def test_R7_a_huge_dimension_does_not_decide_the_rows_without_it(monkeypatch):
    stacks = align_then_diverge()
    stacks["2"][:, :, 5] = 100 * np.random.default_rng(0).normal(size=(3, 40))
    planted(monkeypatch, stacks)
    rows = by_key(layers.run(make_checkpoint(), make_corpus()))
    assert rows["layers/precision_at_1/2/-/-"].value < 0.7 < rows["layers/precision_at_1_without_largest/2/-/-"].value


def test_R1_biased_cka_has_its_own_name_and_no_direction(monkeypatch):
    generator = np.random.default_rng(0)
    planted(monkeypatch, {name: generator.normal(size=(3, 40, 200)) for name in ("0", "1", "1+norm")})
    result = layers.run(make_checkpoint(), make_corpus())
    rows = by_key(result)
    for key in ("deu_Latn/eng_Latn", "-/-"):
        row = rows[f"layers/cka_biased/1/{key}"]
        assert row.value > 0.7 and row.ci_low is None and row.higher_is_better is None and "no interval" in row.method
        assert row.key not in result.items
    assert abs(rows["layers/cka_debiased/1/-/-"].value) < 0.1


def test_R16_null_and_interval_at_independence(monkeypatch):
    generator = np.random.default_rng(0)
    planted(monkeypatch, {name: generator.normal(size=(3, 60, 64)) + 3 for name in ("0", "1", "1+norm")})
    result = layers.run(make_checkpoint(), make_corpus(lines=60))
    rows = by_key(result)
    row = rows["layers/cka_debiased/1/deu_Latn/eng_Latn"]
    assert abs(row.value) < 0.1 and row.null == 0 and row.ci_low is None and "independence" in row.method
    assert row.key in result.items  # a difference of checkpoints is not degenerate
    for summary in ("cka_debiased_peak/-", "cka_debiased_middle_gain/-", "cka_debiased_divergence/1"):
        assert rows[f"layers/{summary}/-/-"].ci_low is None  # nor is what is made of degenerate numbers any better
    cosine = rows["layers/cosine/1/deu_Latn/eng_Latn"]
    assert cosine.value > 0.8 and cosine.value == pytest.approx(cosine.null, abs=0.01)
    assert rows["layers/precision_at_1/1/deu_Latn/eng_Latn"].null == pytest.approx(1 / 60)


def test_R3_constant_layer_is_undefined_with_a_reason(monkeypatch):
    stacks = align_then_diverge()
    stacks["1"][:] = 2.5
    planted(monkeypatch, stacks)
    result = layers.run(make_checkpoint(), make_corpus())
    rows = by_key(result)
    for metric in ("cka_debiased", "cosine_centred", "cosine_z"):
        row = rows[f"layers/{metric}/1/deu_Latn/eng_Latn"]
        assert row.value is None and row.reason and row.key not in result.items
        assert rows[f"layers/{metric}/1/-/-"].value is None
    assert rows["layers/precision_at_1/1/deu_Latn/eng_Latn"].value == 0  # all equal: ties are no hits
    assert result.extras["pairs"]["cka_debiased"][3] is None


@pytest.mark.parametrize("lines", [2, 3, 4, 5])
def test_R3_few_lines(lines):
    result = layers.run(make_checkpoint(), make_corpus(lines=lines))
    for row in result.rows:
        assert row.value is not None or row.reason
        assert row.value is None or np.isfinite(row.value)
    assert (by_key(result)["layers/cka_debiased/1/deu_Latn/eng_Latn"].value is None) == (lines < 4)


def test_R15_duplicate_lines_are_safe(monkeypatch):
    stacks = align_then_diverge()
    stacks["2"][:, 7] = stacks["2"][:, 3]
    planted(monkeypatch, stacks)
    corpus = make_corpus()
    sentences = {
        language: tuple(texts[3] if line == 7 else text for line, text in enumerate(texts))
        for language, texts in corpus.sentences.items()
    }
    result = layers.run(make_checkpoint(), replace(corpus, sentences=sentences))
    hits = result.items["layers/precision_at_1/2/deu_Latn/eng_Latn"].values
    assert hits[[3, 7]].tolist() == [1, 1]
    assert by_key(result)["layers/precision_at_1/2/deu_Latn/eng_Latn"].chance == pytest.approx(42 / 1600)


def test_R17_fingerprint_tells_what_must_agree(tiny):
    checkpoint, corpus, result = tiny
    same = layers.run(checkpoint, corpus)
    assert same.fingerprint == result.fingerprint
    assert [row.value for row in same.rows] == [row.value for row in result.rows]
    assert layers.run(checkpoint, corpus.select(limit=39)).fingerprint != result.fingerprint
    assert layers.run(checkpoint, corpus, pooling="last").fingerprint != result.fingerprint
    assert layers.run(checkpoint, corpus, pivot="deu_Latn").fingerprint != result.fingerprint
    assert result.environment == {"dtype": "float32", "device": "cpu", "attention": "sdpa", "start_token": "BOS <s>"}


def test_layers_and_cache(tiny, tmp_path):
    checkpoint, corpus, result = tiny
    first = layers.run(checkpoint, corpus, cache_dir=tmp_path)
    second = layers.run(checkpoint, corpus, cache_dir=tmp_path)
    assert [row.value for row in first.rows] == [row.value for row in second.rows] == [row.value for row in result.rows]


def test_align_layer_is_shown(monkeypatch):
    planted(monkeypatch, align_then_diverge())
    checkpoint = SimpleNamespace(**{**vars(make_checkpoint()), "align_layer": 3})
    result = layers.run(checkpoint, make_corpus())
    pictures = [(entry["method"], entry["layer"]) for entry in result.extras["projections"]]
    assert pictures == [(method, layer) for layer in ("0", "3", "4") for method in ("pca", "umap")]
    umap = result.extras["projections"][3]
    assert len(umap["points"]) == 3 * 40 and 0.5 < umap["trustworthiness"] <= 1 and umap["neighbours"] == 15
    projection = result.extras["projections"][2]
    assert len(projection["points"]) == len(projection["languages"]) == len(projection["lines"]) == 3 * 40
    assert 0 < sum(projection["explained_variance"]) <= 1
    assert not result.notes  # nothing to recommend: the layer is recorded


def test_S15_pictures_are_no_input_of_a_number(monkeypatch):
    planted(monkeypatch, align_then_diverge())
    first, second = (layers.run(make_checkpoint(), make_corpus(), seed=seed) for seed in (0, 1))
    assert first.extras["projections"][1]["points"] != second.extras["projections"][1]["points"]
    assert [row.value for row in first.rows] == [row.value for row in second.rows]


def test_a_picture_that_fails_costs_no_number(monkeypatch):
    planted(monkeypatch, align_then_diverge())
    whole = layers.run(make_checkpoint(), make_corpus())
    monkeypatch.setitem(sys.modules, "umap", None)  # as where it cannot be imported
    result = layers.run(make_checkpoint(), make_corpus())
    assert [row.value for row in result.rows] == [row.value for row in whole.rows]
    assert any(note.startswith("no UMAP of layer 0: ") for note in result.notes)


def test_few_or_equal_points_have_no_neighbour_map(monkeypatch):
    planted(monkeypatch, {name: np.ones((3, 40, 8)) for name in ("0", "1", "1+norm")})
    result = layers.run(make_checkpoint(), make_corpus())
    assert {entry["method"] for entry in result.extras["projections"]} == {"pca"}
    planted(monkeypatch, align_then_diverge(lines=20))  # 60 points
    assert {
        entry["method"] for entry in layers.run(make_checkpoint(), make_corpus(lines=20)).extras["projections"]
    } == {"pca"}


def test_principal_components_equal_a_singular_value_decomposition():
    stack = np.random.default_rng(0).normal(size=(2, 30, 7)).astype(np.float32) * np.arange(1, 8) + 100
    lines = np.array([3, 4, 20])
    points, explained = layer_pictures.principal_components(stack.astype(np.float32), lines)
    flat = stack.reshape(-1, 7).astype(np.float64)
    left, sizes, directions = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(explained, (sizes**2 / (sizes**2).sum())[:2], rtol=1e-4)
    largest = np.abs(directions[:2]).argmax(axis=1)
    expected = (left * sizes)[:, :2] * np.sign(directions[[0, 1], largest])
    chosen = (expected / expected[:, 0].std()).reshape(2, 30, 2)[:, lines].reshape(-1, 2)
    np.testing.assert_allclose(points, chosen, atol=1e-4)
    for empty in (np.ones((2, 5, 7), np.float32), np.ones((2, 5, 1), np.float32)):  # nothing to show
        points, explained = layer_pictures.principal_components(empty, np.arange(5))
        assert not points.any() and not explained.any()


def test_bad_corpora_are_named():
    with pytest.raises(InputError, match="no pivot language fra_Latn"):
        layers.run(make_checkpoint(), make_corpus(), pivot="fra_Latn")
    with pytest.raises(InputError, match="at least two languages"):
        layers.run(make_checkpoint(), make_corpus(languages=("eng_Latn",)))
    with pytest.raises(InputError, match="two lines"):
        layers.run(make_checkpoint(), make_corpus(lines=1))
