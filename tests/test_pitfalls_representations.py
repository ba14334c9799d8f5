"""Pitfalls of measuring representations (R) and of probes (P), from a suite to the files, the comparison and the gate.

The tests of encoding and of each measure have the rest; an id in a name is the same pitfall everywhere.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers.encoding import SENTENCES, WORDS, make_checkpoint, module_calls
from helpers.engines import language_id, layers
from helpers.oracles import feature_space_debiased
from helpers.reports import csv_text, json_text, page_text
from sklearn.metrics import balanced_accuracy_score

from alignx_eval.comparison.compare import compare
from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine.encode import CorpusVectors, Encoding
from alignx_eval.errors import InputError, NotComparableError
from alignx_eval.judgement.gate import deciding_rule, judge
from alignx_eval.judgement.policy import Policy, Rule, default_policy
from alignx_eval.measures import probe
from alignx_eval.measures.cka import debiased_cka
from alignx_eval.results import SuiteResult
from alignx_eval.run_directory import RunDirectory

PIVOT, GERMAN, RUSSIAN = "eng_Latn", "deu_Latn", "rus_Cyrl"


def make_corpus(lines: int, languages=(PIVOT, GERMAN), **changes) -> ParallelCorpus:
    sentences = {language: tuple(f"{language} {line}" for line in range(lines)) for language in languages}
    ids = tuple(f"line-{line}" for line in range(lines))
    fields = {
        "name": "toy",
        "split": "test",
        "sentences": sentences,
        "ids": ids,
        "groups": ids,
        "licence": "CC0",
        "attribution": "",
    }
    return ParallelCorpus(**fields | changes)


def run_on(
    monkeypatch, suite, stacks: dict[str, np.ndarray], *, corpus: ParallelCorpus | None = None, **options
) -> SuiteResult:
    """The suite on the given vectors, layer name -> [languages, lines, width], as if a checkpoint had encoded the
    corpus to them."""
    corpus = corpus or make_corpus(next(iter(stacks.values())).shape[1])
    names, counts = tuple(stacks), np.full(len(corpus), 9)
    shares = np.full((len(names), len(corpus)), 0.2)
    sources = {
        language: Encoding(
            np.stack([stack[number] for stack in stacks.values()]).astype(np.float32), names, counts, shares
        )
        for number, language in enumerate(corpus.languages)
    }
    vectors = CorpusVectors(
        corpus.languages,
        names,
        dict.fromkeys(corpus.languages, counts),
        dict.fromkeys(corpus.languages, shares),
        0,
        sources,
    )
    before = {language: encoding.vectors.copy() for language, encoding in sources.items()}
    monkeypatch.setattr("alignx_eval.engine.transformers_engine.encode_corpus", lambda *_, **__: vectors)
    result = suite.run(make_checkpoint(), corpus, **options)
    for (
        language,
        encoding,
    ) in sources.items():  # R15: measuring changes no vector, though normalising in place would be cheaper
        np.testing.assert_array_equal(encoding.vectors, before[language])
    return result


def layered(stacks) -> dict[str, np.ndarray]:
    """One stack a layer (three at least, so that there is a middle); the last one once more as the state after the
    final norm."""
    assert len(stacks) > 2
    named = {str(number): np.asarray(stack) for number, stack in enumerate(stacks)}
    return named | {f"{len(named) - 1}+norm": named[str(len(named) - 1)]}


def rows_of(result: SuiteResult, metric: str, language: str | None = GERMAN) -> dict[str, object]:
    """layer -> row of one metric, `language` first where a direction matters."""
    return {row.layer: row for row in result.rows if row.metric == metric and row.language == language}


def value(result: SuiteResult, metric: str, layer: str, language: str | None = GERMAN) -> float | None:
    return rows_of(result, metric, language)[layer].value


def aligned(generator, lines=40, width=24, noise=1.0, languages=2):
    """Content that all languages share, and noise."""
    return generator.normal(size=(lines, width)) + noise * generator.normal(size=(languages, lines, width))


def only(result: SuiteResult, metric: str) -> SuiteResult:
    rows = [row for row in result.rows if row.metric == metric and row.language is not None]
    return replace(result, rows=rows, items={row.key: result.items[row.key] for row in rows if row.key in result.items})


def strictly(text: str):
    """JSON as the standard has it: NaN and Infinity are errors."""

    def refuse(name):
        raise AssertionError(f"{name} in JSON")

    return json.loads(text, parse_constant=refuse)


# --- CKA ------------------------------------------------------------------------------------------


def test_R1_no_gate_judges_the_biased_form(monkeypatch):
    """Not even where a policy asks for it by its name: the value grows with width and shrinks with lines, aligned or
    not."""
    results = {
        name: {
            "layers": run_on(monkeypatch, layers, layered(np.random.default_rng(seed).normal(size=(3, 2, 32, 1024))))
        }
        for seed, name in enumerate(("base", "candidate"))
    }
    for suites in results.values():
        assert (
            value(suites["layers"], "cka_biased", "1") > 0.95
            and abs(value(suites["layers"], "cka_debiased", "1")) < 0.2
        )
    comparison = compare(results, base="base", candidates=["candidate"])
    biased = [row for row in comparison.rows if row.metric == "cka_biased"]
    assert len(biased) == 2 * 4  # of the pair and of the mean over pairs, in four layers
    rule = Rule(suite="layers", metric="cka*", layers=("0", "1", "2", "2+norm"), direction="higher", tolerance=0)
    verdict = judge(comparison, Policy(rules=(rule,), min_n=10))
    gated = {row.key: row for row in verdict.candidates[0].rows}
    assert {gated[row.key].status for row in biased} == {"grey"} and all(gated[row.key].p is None for row in biased)
    assert any(row.status != "grey" for row in gated.values())  # the debiased form is judged
    rows = [
        replace(row, layer=None, higher_is_better=True) for row in biased
    ]  # however it is labelled, no rule of the default matches
    assert not any(deciding_rule(default_policy(), row, language=row.language, layer="1") for row in rows)


@pytest.mark.parametrize("width", [1, 64])
def test_R2_independent_data(monkeypatch, width):
    """200 layers of noise, of which one dimension is the worst case: an interval that leaves 0 out is rare for a value,
    and for the difference of two checkpoints no more frequent than it says."""
    base, candidate = (
        run_on(monkeypatch, layers, layered(np.random.default_rng(seed).normal(size=(200, 2, 40, width))))
        for seed in range(2)
    )
    rows = list(rows_of(base, "cka_debiased").values())
    assert len(rows) == 201
    assert (
        np.mean([row.ci_low is not None for row in rows]) <= 0.05
    )  # no interval at independence, so none that leaves 0 out
    assert np.mean([row.value for row in rows]) == pytest.approx(0, abs=0.02)
    sides = {"base": {"layers": only(base, "cka_debiased")}, "candidate": {"layers": only(candidate, "cka_debiased")}}
    compared = compare(sides, base="base", candidates=["candidate"]).rows
    assert len(compared) == 201
    assert np.mean([row.ci_low <= 0 <= row.ci_high for row in compared]) > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 200)
    assert np.mean([row.p < 0.05 for row in compared]) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_R2_identical_data_contain_one(monkeypatch):
    stacks = layered(np.repeat(np.random.default_rng(0).normal(size=(3, 1, 40, 24)), 2, axis=1))
    for row in rows_of(run_on(monkeypatch, layers, stacks), "cka_debiased").values():
        assert (
            row.value == pytest.approx(1)
            and row.ci_low - 1e-6 <= 1 <= row.ci_high + 1e-6
            and row.ci_high - row.ci_low < 1e-4
        )


DEGENERATE = {
    "all zero": lambda stack: np.zeros_like(stack),
    "one vector": lambda stack: np.full_like(stack, 1e4),
    "one language of one vector": lambda stack: np.concatenate([stack[:1], np.full_like(stack[1:2], 0.1), stack[2:]]),
    "one zero sentence": lambda stack: np.concatenate([np.zeros_like(stack[:, :1]), stack[:, 1:]], axis=1),
    "one line apart": lambda stack: np.concatenate(
        [stack[:, :1], np.repeat(stack[:, 1:2], stack.shape[1] - 1, axis=1)], axis=1
    ),
    "one dimension": lambda stack: stack * (np.arange(stack.shape[2]) == 3),
}


@pytest.mark.parametrize("kind", DEGENERATE)
def test_R3_nothing_undefined_reaches_a_file(kind, monkeypatch, tmp_path):
    generator = np.random.default_rng(0)
    plain = aligned(generator, 12, 6, languages=3)
    stacks = layered([plain, DEGENERATE[kind](plain), plain])
    corpus, results = make_corpus(12, (PIVOT, GERMAN, RUSSIAN)), {}
    directory = RunDirectory(tmp_path / "run")
    for suite, module in (("layers", layers), ("language_id", language_id)):
        result = run_on(monkeypatch, module, stacks, corpus=corpus)
        for row in result.rows:
            assert (row.value is None) == bool(row.reason), row
        directory.save("tiny", "key", result)
        results[suite] = directory.load("tiny", suite)
    assert strictly((tmp_path / "run" / "results.json").read_text())["rows"]
    if kind in ("all zero", "one vector"):
        assert value(results["layers"], "cka_debiased", "1") is None
        assert value(results["layers"], "precision_at_1", "1") == 0  # all alike: ties are no hits
        assert value(results["language_id"], "probe_balanced_accuracy", "1", None) == pytest.approx(1 / 3)
    comparison = compare({"a": results, "b": results}, base="a", candidates=["b"])
    for row in comparison.rows:
        assert (row.difference, row.p) in ((0, 1), (0, None), (None, None)) and (row.difference == 0 or row.reason), row
    assert strictly(json_text(comparison))
    page = page_text(comparison)
    for data in re.findall(r"<script[^>]*application/json[^>]*>(.*?)</script>", page, re.DOTALL):
        strictly(data)
    assert not re.search(
        r"\b(nan|inf|infinity)\b", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL), re.IGNORECASE
    )


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_R3_few_lines(lines, monkeypatch, tmp_path):
    stacks = layered(np.random.default_rng(0).normal(size=(3, 2, lines, 8)))
    for suite in (layers, language_id):
        if lines == 1:
            with pytest.raises(InputError, match="two"):
                run_on(monkeypatch, suite, stacks)
            continue
        result = run_on(monkeypatch, suite, stacks)
        RunDirectory(tmp_path).save("tiny", "key", result)
        assert all((row.value is None) == bool(row.reason) for row in result.rows)
    if lines > 1:
        rows = strictly((tmp_path / "results.json").read_text())["rows"]
        cka = [row for row in rows if row["metric"] == "cka_debiased"]
        assert cka and all(row["value"] is None and "4 lines" in row["reason"] for row in cka if row["language"])


def test_R4_a_negative_value_stays_negative(monkeypatch, tmp_path):
    """From the suite through the run directory to JSON, CSV and the page."""
    generator = np.random.default_rng(0)
    stack = next(
        stack for stack in (generator.normal(size=(2, 20, 30)) for _ in range(100)) if debiased_cka(*stack) < -0.05
    )
    expected = feature_space_debiased(*stack)
    result = run_on(monkeypatch, layers, layered([stack] * 3))
    assert value(result, "cka_debiased", "1") == pytest.approx(expected, abs=1e-5)
    directory = RunDirectory(tmp_path / "run")
    directory.save("tiny", "key", result)
    loaded = RunDirectory.read(tmp_path / "run").load("tiny", "layers")
    assert value(loaded, "cka_debiased", "1") == value(result, "cka_debiased", "1")
    assert loaded.extras["pairs"]["cka_debiased"] == pytest.approx([expected] * 4, abs=1e-5)
    comparison = compare({"a": {"layers": loaded}, "b": {"layers": loaded}}, base="a", candidates=["b"])
    shown = f"−{-expected:.3f}"
    assert f"{expected:.3f}"[:-1] in csv_text(comparison) and f"{expected:.3f}"[:-1] in json_text(comparison)
    assert shown in page_text(comparison)


def test_R5_invariances(monkeypatch):
    """What each metric must not see, and what it must: one layer a transformation, the plain vectors in layer 0."""
    generator = np.random.default_rng(0)
    plain = aligned(generator, noise=0.8) + 0.7
    rotations = [np.linalg.qr(generator.normal(size=(24, 24)))[0] for _ in range(2)]
    order = generator.permutation(40)
    transformed = {
        "both turned": plain @ rotations[0],
        "both scaled": 37 * plain,
        "one scaled": plain * np.array([1, 9])[:, None, None],
        "lines in another order": plain[:, order],
        "one moved": plain + np.stack([np.zeros(24), 5 * generator.normal(size=24)])[:, None],
        "one turned": np.stack([plain[0], plain[1] @ rotations[1]]),
        "stretched": plain * np.geomspace(1, 30, 24),
        "one in another order": np.stack([plain[0], plain[1][order]]),
    }
    result = run_on(monkeypatch, layers, layered([plain, *transformed.values()]))
    geometry = {"both turned", "both scaled", "one scaled", "lines in another order"}
    unchanged = {
        "cosine": geometry,
        "precision_at_1": geometry,
        "mutual_nearest_neighbour": geometry,
        "cosine_centred": geometry | {"one moved"},
        "precision_at_1_centred": geometry | {"one moved"},
        "cka_debiased": geometry | {"one moved", "one turned"},
        "cka_biased": geometry | {"one moved", "one turned"},
    }
    for metric, keeps in unchanged.items():
        for number, name in enumerate(transformed):
            change = abs(value(result, metric, str(number + 1)) - value(result, metric, "0"))
            assert change < 1e-5 if name in keeps else change > 0.01, (metric, name, change)
    last = str(len(transformed))  # one side in another order: nothing is left
    assert abs(value(result, "cka_debiased", last)) < 0.15 < value(result, "cka_debiased", "0")
    assert value(result, "precision_at_1", last) < 0.1 < value(result, "precision_at_1", "0")


@pytest.mark.parametrize("width", [5, 200])
def test_R5_sample_space_equals_feature_space(width, monkeypatch):
    stack = aligned(np.random.default_rng(0), 30, width, noise=2)
    result = run_on(monkeypatch, layers, layered([stack] * 3))
    assert value(result, "cka_debiased", "1") == pytest.approx(feature_space_debiased(*stack), abs=1e-5)


# --- cosine and retrieval -------------------------------------------------------------------------


def test_R6_both_errors_of_the_raw_cosine_can_be_read_off_the_rows(monkeypatch):
    generator = np.random.default_rng(0)
    unrelated = generator.normal(size=(2, 40, 64)) + 10 * generator.normal(size=64)
    content = aligned(generator, 40, 64, noise=0.1)
    moved = content + 3 * generator.normal(size=(2, 1, 64))
    result = run_on(monkeypatch, layers, layered([unrelated, moved, moved]))
    raw, centred, z = (rows_of(result, metric) for metric in ("cosine", "cosine_centred", "cosine_z"))
    assert raw["0"].value > 0.95 and raw["0"].value == pytest.approx(raw["0"].null, abs=0.01)
    assert abs(centred["0"].value) < 0.1 and abs(z["0"].value) < 0.5
    assert raw["1"].value < 0.4 and centred["1"].value > 0.95 and z["1"].value > 1
    assert raw["1"].higher_is_better is None  # a narrower cone raises it, so it is no claim


def test_R16_permuted_pairs_give_the_null_that_stands_beside_a_number(monkeypatch):
    """Layer 0 has related lines; in 400 more the same vectors are paired at random. Their mean is the null, or the
    chance level."""
    generator = np.random.default_rng(0)
    related = aligned(generator) + 0.5 * generator.normal(size=(2, 1, 24))
    permuted = [np.stack([related[0][generator.permutation(40)], related[1]]) for _ in range(400)]
    result = run_on(monkeypatch, layers, layered([related, *permuted]))
    metrics = {
        row.metric for row in result.rows if row.layer == "0" and row.language == GERMAN and row.metric != "cka_biased"
    }
    assert {
        "cosine",
        "cosine_centred",
        "cosine_z",
        "cka_debiased",
        "precision_at_1",
        "precision_at_1_centred",
        "ratio_margin",
    } <= metrics
    for metric in metrics - {
        "mutual_nearest_neighbour"
    }:  # its chance level is that of exchangeable similarities, see its own tests
        rows = rows_of(result, metric)
        beside = rows["0"].null if rows["0"].null is not None else rows["0"].chance
        if metric in (
            "cosine",
            "cosine_centred",
        ):  # their null is of wrong pairs only; one in 40 of a permutation is right
            beside += (rows["0"].value - beside) / 40
        values = np.array([rows[str(layer)].value for layer in range(1, 401)])
        assert values.mean() == pytest.approx(beside, abs=4.5 * values.std() / 20), metric
        assert rows["0"].value > beside + 2 * values.std(), metric
    assert rows_of(result, "mutual_nearest_neighbour")["0"].chance == pytest.approx(1 / 79)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ids": tuple(f"other-{line}" for line in range(12))}, "item_ids"),
        ({"sentences": {PIVOT: tuple("abcdefghijkl"), GERMAN: tuple("abcdefghijkl")}}, "content"),
        ({"name": "elsewhere"}, "corpus"),
        ({"groups": tuple(f"document-{line // 2}" for line in range(12))}, "content"),
    ],
)
def test_R17_compare_aborts_where_the_lines_differ(change, told, monkeypatch):
    stacks = layered(np.random.default_rng(0).normal(size=(3, 2, 12, 8)))
    for suite in (layers, language_id):
        base = run_on(monkeypatch, suite, stacks, corpus=make_corpus(12))
        other = run_on(monkeypatch, suite, stacks, corpus=make_corpus(12, **change))
        if "groups" not in change:
            assert [row.value for row in base.rows if row.layer] == [
                row.value for row in other.rows if row.layer
            ]  # no number tells
        with pytest.raises(NotComparableError, match=told) as error:
            compare({"a": {suite.SUITE: base}, "b": {suite.SUITE: other}}, base="a", candidates=["b"])
        assert error.value.exit_code == 5


def test_R17_compare_aborts_where_there_are_fewer_lines(monkeypatch):
    stack = np.random.default_rng(0).normal(size=(3, 2, 12, 8))
    whole, part = (run_on(monkeypatch, layers, layered(stack[:, :, :lines])) for lines in (12, 11))
    with pytest.raises(NotComparableError, match="retrieval_pool"):
        compare({"a": {"layers": whole}, "b": {"layers": part}}, base="a", candidates=["b"])


@pytest.mark.parametrize("suite", [layers, language_id])
def test_R13_the_same_weights_with_a_shorter_context_are_refused_and_not_measured_on_other_text(suite):
    """Each model used to cut at its own context. The model with room for all is measured, the other is refused by
    language, unmeasured."""
    long = " ".join(WORDS * 2)
    sentences = {PIVOT: tuple(SENTENCES), GERMAN: (long, *SENTENCES[1:5], long), RUSSIAN: (*SENTENCES[:5], long)}
    corpus = make_corpus(6, sentences=sentences)
    longer, shorter = make_checkpoint(), make_checkpoint()
    longer.model.config.max_position_embeddings = 81
    assert suite.run(longer, corpus).rows
    with module_calls() as calls:
        for measure in (suite.check, suite.run):
            with pytest.raises(InputError, match=r"tiny takes 64 tokens.*deu_Latn \(2 of 6\), rus_Cyrl \(1 of 6\)"):
                measure(shorter, corpus)
    assert not calls


# --- probes ---------------------------------------------------------------------------------------


def spy_on_folds(monkeypatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds and control labels of every probe from now on; the probe itself runs as it is."""
    seen, original = [], probe.language_probe
    monkeypatch.setattr(probe, "language_probe", lambda *arguments: seen.append(arguments[1:3]) or original(*arguments))
    return seen


def test_P1_documents_are_not_torn_apart(monkeypatch):
    """What was learnt by heart about a document pays only where its lines lie on both sides of a split."""
    generator = np.random.default_rng(0)
    document = np.repeat(np.arange(20), 4)
    own = generator.normal(size=(3, 20, 40))  # of each document and language, and of nothing else
    stacks = layered([own[:, document] + 0.1 * generator.normal(size=(3, 80, 40))] * 3)
    corpus = make_corpus(80, (PIVOT, GERMAN, RUSSIAN))
    seen = spy_on_folds(monkeypatch)
    leaking = run_on(monkeypatch, language_id, stacks, corpus=corpus)
    honest = run_on(
        monkeypatch,
        language_id,
        stacks,
        corpus=replace(corpus, groups=tuple(f"document-{number}" for number in document)),
    )
    assert value(leaking, "probe_balanced_accuracy", "1", None) > 0.6
    assert value(honest, "probe_balanced_accuracy", "1", None) < 0.45
    (torn, _), (whole, _) = seen[0], seen[-1]
    assert all(len(set(whole[document == number])) == 1 for number in range(20))
    assert not all(len(set(torn[document == number])) == 1 for number in range(20))


def test_P3_content_is_no_language(monkeypatch):
    """Many dimensions and few lines: the probe can learn any labels by heart, and its selectivity says that it read
    nothing."""
    stacks = layered([aligned(np.random.default_rng(0), 40, 300, languages=3)] * 3)
    result = run_on(monkeypatch, language_id, stacks, corpus=make_corpus(40, (PIVOT, GERMAN, RUSSIAN)))
    assert value(result, "probe_control_fit", "1", None) > 0.9
    accuracy, selectivity = (
        rows_of(result, metric, None)["1"] for metric in ("probe_balanced_accuracy", "probe_selectivity")
    )
    assert (
        abs(accuracy.value - 1 / 3) < 0.15
        and accuracy.chance == pytest.approx(1 / 3)
        and abs(accuracy.null - 1 / 3) < 0.15
    )
    assert selectivity.ci_low < 0 < selectivity.ci_high


def test_P4_a_script_is_no_language(monkeypatch):
    """Vectors that know the script and nothing else: the probe gets what the text's script alone gives, and chance
    within a script."""
    generator = np.random.default_rng(0)
    stack = generator.normal(size=(3, 60, 8))
    stack[2, :, 0] += 30
    sentences = {
        PIVOT: tuple(f"line {line}" for line in range(60)),
        GERMAN: tuple(f"Zeile {line}" for line in range(60)),
        RUSSIAN: tuple(f"строка {line}" for line in range(60)),
    }
    corpus = make_corpus(60, sentences=sentences)
    result = run_on(monkeypatch, language_id, layered([stack] * 3), corpus=corpus)
    assert value(result, "probe_script_only", None, None) == pytest.approx(
        2 / 3
    )  # Russian, and one of two in Latin letters
    assert value(result, "probe_balanced_accuracy", "1", None) == pytest.approx(2 / 3, abs=0.1)
    within = rows_of(result, "probe_within_script", None)["1"]
    assert within.value == pytest.approx(0.5, abs=0.15) and within.chance == 0.5


def test_P5_balanced_accuracy_is_that_of_scikit_learn():
    vectors = aligned(np.random.default_rng(0), 50, 10, languages=4).astype(np.float32)
    vectors[0] += 2  # one language is easy
    folds = probe.grouped_folds(np.arange(50), 5, np.random.default_rng(1))
    found = probe.language_probe(vectors, folds, probe.control_labels(4, 50, np.random.default_rng(2)), ["Latn"] * 4)
    truth = np.repeat(np.arange(4), 50)
    assert found.correct.mean() == pytest.approx(balanced_accuracy_score(truth, found.predicted.reshape(-1)))
    assert 0.3 < found.correct.mean() < 0.9


def test_P6_every_checkpoint_has_the_same_folds_and_labels(monkeypatch):
    """Whatever its width and its vectors; other seeds give others; and the comparison flips its signs by another
    stream."""
    seen, corpus = spy_on_folds(monkeypatch), make_corpus(40)
    for width, seed in ((8, 0), (30, 0), (8, 1)):
        run_on(
            monkeypatch,
            language_id,
            layered(np.random.default_rng(width).normal(size=(3, 2, 40, width))),
            corpus=corpus,
            seed=seed,
        )
    base, wide, other = (seen[number] for number in (0, 4, 8))
    for one, same, different in zip(base, wide, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert (one != different).any()
    assert (base[0] != probe.grouped_folds(np.arange(40), 5, np.random.default_rng(0))).any()


@pytest.mark.parametrize("seed", [0, 7])
def test_P6_paired_differences_repeat(monkeypatch, seed):
    stacks = [
        layered(np.random.default_rng(number).normal(size=(3, 2, 30, 8)) + [[[0.0]], [[0.4]]]) for number in range(2)
    ]

    def differences():
        a, b = (run_on(monkeypatch, language_id, stack, corpus=make_corpus(30), seed=seed) for stack in stacks)
        return compare({"a": {"language_id": a}, "b": {"language_id": b}}, base="a", candidates=["b"], seed=seed).rows

    first = differences()
    assert first == differences() and any(row.difference for row in first)
