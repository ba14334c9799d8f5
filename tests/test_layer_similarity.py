"""CKA between checkpoints, layer against layer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.encoding import make_checkpoint
from helpers.engines import layers
from helpers.vectors import make_corpus

from alignx_eval.comparison.layer_similarity import compare_cached_layers, compare_layers
from alignx_eval.errors import InputError
from alignx_eval.measures.cka import debiased_cka
from alignx_eval.run_directory import RunDirectory
from alignx_eval.statistics.jackknife import jackknife

LAYERS = ("0", "1", "1+norm")


def stacks(seed=0, lines=30):
    """language -> layer -> vectors, and a reader of them."""
    generator = np.random.default_rng(seed)
    content = generator.normal(size=(lines, 12))
    table = {
        (language, layer): (content + generator.normal(size=(lines, 12))).astype(np.float32)
        for language in ("eng_Latn", "deu_Latn")
        for layer in LAYERS
    }
    return table, lambda language, layer: table[language, layer]


def compared(reference, candidate, groups, candidate_layers=LAYERS):
    options = {
        "languages": ("eng_Latn", "deu_Latn"),
        "layers": LAYERS,
        "candidate_layers": candidate_layers,
        "groups": groups,
    }
    return compare_layers(reference, candidate, **options)


def test_values_are_means_of_pairwise_cka_and_intervals_those_of_the_jackknife():
    (first, read_first), (second, _) = stacks(0), stacks(1)
    second = {key: value + first[key] for key, value in second.items()}
    groups = np.arange(30) // 2
    values, same_layer = compared(read_first, lambda language, layer: second[language, layer], groups)
    for i, layer in enumerate(LAYERS):
        for j, other in enumerate(LAYERS):
            expected = np.mean(
                [debiased_cka(first[code, layer], second[code, other]) for code in ("eng_Latn", "deu_Latn")]
            )
            assert values[i][j] == pytest.approx(expected, abs=1e-4)
    kept = [groups != group for group in range(15)]
    left_out = [
        np.mean([debiased_cka(first[code, "1"][keep], second[code, "1"][keep]) for code in ("eng_Latn", "deu_Latn")])
        for keep in kept
    ]
    expected = jackknife(
        np.mean([debiased_cka(first[code, "1"], second[code, "1"]) for code in ("eng_Latn", "deu_Latn")]), left_out
    )
    assert same_layer[1]["layer"] == "1"
    assert (same_layer[1]["ci_low"], same_layer[1]["ci_high"]) == (
        pytest.approx(expected.ci_low, abs=2e-4),
        pytest.approx(expected.ci_high, abs=2e-4),
    )


def test_rotation_and_scale_change_nothing_and_other_content_does():
    table, read = stacks()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 12)))[0].astype(np.float32)
    _, turned = compared(read, lambda language, layer: 3 * table[language, layer] @ rotation + 5, np.arange(30))
    assert [entry["value"] for entry in turned] == [1, 1, 1] and all(entry["ci_low"] > 0.999 for entry in turned)
    order = np.random.default_rng(2).permutation(30)
    _, shuffled = compared(read, lambda language, layer: table[language, layer][order], np.arange(30))
    assert all(abs(entry["value"]) < 0.3 for entry in shuffled)


def test_other_depths_have_no_same_layer_and_constant_layers_are_undefined():
    table, read = stacks()
    values, same_layer = compared(read, read, np.arange(30), candidate_layers=("0", "1"))
    assert same_layer == [] and len(values) == 3 and len(values[0]) == 2
    flat = lambda language, layer: np.ones((30, 12), np.float32) if layer == "1" else table[language, layer]  # noqa: E731
    values, same_layer = compared(read, flat, np.arange(30))
    assert [row[1] for row in values] == [None] * 3
    assert same_layer[1] == {"layer": "1", "value": None, "ci_low": None, "ci_high": None}


def test_from_the_cache_to_the_run_directory_and_back(tmp_path):
    corpus = make_corpus(lines=12)
    results = {}
    for label, family in (("base", "llama"), ("candidate", "mistral")):
        results[label] = layers.run(make_checkpoint(family), corpus, cache_dir=tmp_path)
    found = compare_cached_layers(results, "base", "candidate", "candidate-base", cache_dir=tmp_path)
    assert found is not None and found.languages == corpus.languages and (found.n, found.clusters) == (12, 12)
    assert found.layers == found.candidate_layers == ("0", "1", "2", "3", "3+norm")
    itself = compare_cached_layers(results, "base", "base", "candidate-base", cache_dir=tmp_path)
    assert [entry["value"] for entry in itself.same_layer] == [1] * 5

    directory = RunDirectory(tmp_path / "run")
    assert directory.layer_similarity() == []
    directory.write_manifest({})
    directory.write_layer_similarity([found])
    assert RunDirectory(tmp_path / "run").layer_similarity() == [found]
    for path in tmp_path.glob("vectors/*/*"):
        path.unlink()
    again = compare_cached_layers(
        results, "base", "candidate", "candidate-base", cache_dir=tmp_path, known=directory.layer_similarity()
    )
    assert again == found  # what is there is not made again
    assert compare_cached_layers(results, "base", "candidate", "candidate-control", cache_dir=tmp_path) is None

    path = tmp_path / "run" / "layer_similarity.json"
    document = json.loads(path.read_text())
    del document["similarities"][0]["languages"]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"layer_similarity\.json: not written by alignx-eval"):
        directory.layer_similarity()


def test_results_without_a_cache_have_nothing_to_compare():
    result = layers.run(make_checkpoint(), make_corpus(lines=6))
    assert "vectors" not in result.extras
    assert compare_cached_layers({"a": result, "b": result}, "a", "b", "candidate-base", cache_dir="nowhere") is None


def test_other_lines_are_not_compared(tmp_path):
    first, second = (layers.run(make_checkpoint(), make_corpus(lines=lines), cache_dir=tmp_path) for lines in (12, 10))
    for pair in ({"a": first, "b": second}, {"a": second, "b": first}):
        assert compare_cached_layers(pair, "a", "b", "candidate-base", cache_dir=tmp_path) is None


def test_what_was_measured_here_before_is_not_shown(tmp_path):
    from dataclasses import replace

    from alignx_eval.sources import _current

    results = {
        family: layers.run(make_checkpoint(family), make_corpus(lines=12), cache_dir=tmp_path)
        for family in ("llama", "mistral")
    }
    found = compare_cached_layers(results, "llama", "mistral", "candidate-base", cache_dir=tmp_path)
    suites = {label: {"layers": result} for label, result in results.items()}
    assert _current([found, replace(found, key="old"), replace(found, candidate="gone")], suites) == [found]
    assert _current([found], {"llama": {}, "mistral": {}}) == []
