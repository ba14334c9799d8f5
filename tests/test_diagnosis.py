"""The five rules: what each finds on comparisons made for it, and that noise and too few data find nothing."""

import dataclasses
import json
import math

import numpy as np
import pytest
from helpers.comparisons import large_comparison, single_run, small_comparison
from scipy import stats

from alignx_eval.comparison.compare import compare
from alignx_eval.comparison.paired_items import point_of
from alignx_eval.comparison.rows import Comparison
from alignx_eval.judgement.diagnosis import RULES, diagnose
from alignx_eval.judgement.evidence import MAXIMUM_EVIDENCE, Diagnosis
from alignx_eval.judgement.report import report_of
from alignx_eval.metrics import METRICS
from alignx_eval.results import Items, Row, SuiteResult
from alignx_eval.wording import interval_text

PIVOT, OTHERS = "eng_Latn", ("deu_Latn", "spa_Latn", "tur_Latn", "rus_Cyrl", "zho_Hans")
LANGUAGES = (PIVOT, *OTHERS)
LINES = 500


def measured(
    name: str,
    *,
    retrieval: float = 0.0,
    start: float = 0.3,
    identity: tuple[float, float] = (0.0, 0.0),
    recall: dict[str, float] | None = None,
    bits: dict[str, float] | None = None,
    off_target: dict[str, float] | None = None,
    correct: dict[str, int] | None = None,
    task: dict[str, float] | None = None,
    noise: float = 0.02,
    lines: int = LINES,
    per_document: int = 2,
    suites: tuple[str, ...] = ("layers", "language_id", "language_modelling", "translation", "tasks"),
) -> dict[str, SuiteResult]:
    """Results of a checkpoint in the shape of the real suites' rows. The keywords are shifts, by language or by
    "source-target".

    `retrieval` moves precision@1 at layer 2, `identity` the probe before and after the final norm, `correct` the
    matching n-grams of a line. Lines are common to all checkpoints; `noise` is what a checkpoint adds of its own.
    """
    shared, own = np.random.default_rng(5), np.random.default_rng(sum(map(ord, name)))
    documents = tuple(f"document {line // per_document}" for line in range(lines))
    results = {}

    def suite(title: str) -> SuiteResult:
        return SuiteResult(
            title,
            [],
            default_clusters=documents,
            item_ids=tuple(map(str, range(lines))),
            fingerprint={"corpus": "test"},
            environment={},
        )

    def add(
        result: SuiteResult, metric: str, items: Items, higher: bool | None, layer=None, language=None, other=None
    ) -> None:
        row = Row(
            suite=result.suite, metric=metric, checkpoint=name, layer=layer, language=language, other_language=other,
            value=point_of(items), n=lines, higher_is_better=higher,
        )  # fmt: skip
        result.rows.append(row)
        result.items[row.key] = items

    def values(mean: float) -> Items:
        return Items("mean", mean + 0.1 * shared.standard_normal(lines) + noise * own.standard_normal(lines))

    directions = [pair for code in OTHERS for pair in ((PIVOT, code), (code, PIVOT))]
    results["layers"] = suite("layers")
    for layer in ("0", "1", "2", "3", "4", "4+norm"):
        shift = retrieval if layer == "2" else 0.0
        for language, other in directions:
            add(
                results["layers"],
                "precision_at_1",
                values(start + shift),
                None if layer[0] == "4" else True,
                layer,
                language,
                other,
            )
        add(results["layers"], "cka_debiased", values(0.4 + shift), None if layer[0] == "4" else True, layer)
    results["language_id"] = suite("language_id")
    for layer, shift in (("2", 0.0), ("4", identity[0]), ("4+norm", identity[1])):
        add(results["language_id"], "probe_balanced_accuracy", values(0.9 + shift), None, layer)
        for language in LANGUAGES:
            moved = (recall or {}).get(language, 0.0) if layer[0] == "4" else 0.0
            add(results["language_id"], "probe_recall", values(0.9 + moved), None, layer, language)
    results["language_modelling"] = suite("language_modelling")
    for language in LANGUAGES:
        size = shared.integers(20, 90, lines)
        cost = size * (
            2
            + (bits or {}).get(language, 0.0)
            + 0.1 * shared.standard_normal(lines)
            + noise * own.standard_normal(lines)
        )
        add(
            results["language_modelling"],
            "bits_per_byte",
            Items("ratio", np.column_stack([cost, size])),
            False,
            None,
            language,
        )
    results["translation"] = suite("translation")
    for language, other in directions:
        pair = f"{language}-{other}"
        length = shared.integers(10, 30, lines)
        total = np.column_stack([length - order for order in range(4)])
        hits = shared.binomial(total, 0.6 ** np.arange(1, 5)) + own.integers(-1, 2, (lines, 4)) * (
            own.random((lines, 1)) < 5 * noise
        )
        hits = np.clip(hits + (correct or {}).get(pair, 0), 0, total)
        add(
            results["translation"],
            "bleu",
            Items("bleu", np.column_stack([length, length, hits, total])),
            True,
            None,
            language,
            other,
        )
        counts = np.stack(
            [np.full((lines, 8), 40), np.full((lines, 8), 40), shared.integers(10, 30, (lines, 8))], axis=2
        )
        counts[:, :, 2] += (correct or {}).get(pair, 0) + own.integers(-1, 2, (lines, 8))
        add(results["translation"], "chrf++", Items("chrf", counts.reshape(lines, 24)), True, None, language, other)
        wrong = shared.random(lines) + noise * own.standard_normal(lines) < 0.05 + (off_target or {}).get(pair, 0.0)
        off = Items("ratio", np.column_stack([wrong.astype(float), np.ones(lines)]))
        add(results["translation"], "off_target_rate", off, False, None, language, other)
    results["tasks"] = suite("tasks")
    for language in LANGUAGES:
        add(results["tasks"], "choice.acc", values(0.5 + (task or {}).get(language, 0.0)), True, None, language)
    return {title: results[title] for title in suites}


def everywhere(value, languages=LANGUAGES) -> dict:
    return dict.fromkeys(languages, value)


def against(
    candidate: dict[str, SuiteResult], reference: dict[str, SuiteResult] | None = None, **facts
) -> dict[str, Diagnosis]:
    """The rules on `candidate` against a base that has no shifts."""
    comparison = compare(
        {"base": reference or measured("base"), "alignx": candidate},
        base="base",
        candidates=["alignx"],
        checkpoints={"base": {}, "alignx": {"align_layer": 2}},
        **facts,
    )
    return checked(diagnose(comparison))


def checked(diagnoses: list[Diagnosis]) -> dict[str, Diagnosis]:
    """By rule. What every diagnosis has to keep to is asserted here."""
    for diagnosis in diagnoses:
        texts = [diagnosis.sentence, *(evidence.text for evidence in diagnosis.evidence)]
        assert len(diagnosis.evidence) <= MAXIMUM_EVIDENCE and (
            len(diagnosis.evidence) == MAXIMUM_EVIDENCE or diagnosis.more == 0
        )
        for text in texts:
            assert not any(word in text.lower() for word in ("equal", "nan", "none,", "no loss ", "identical", "?")), (
                text
            )
        assert diagnosis.sentence.startswith(f"{diagnosis.candidate} against {diagnosis.reference} (")
        assert diagnosis.sentence.endswith(".") and ".." not in diagnosis.sentence
        for evidence in diagnosis.evidence:
            if diagnosis.rule != "price":
                assert "[" in evidence.text and "n = " in evidence.text and " clusters" in evidence.text
            if evidence.row is not None:
                assert (evidence.row.candidate_name, evidence.row.base_name) == (
                    diagnosis.candidate,
                    diagnosis.reference,
                )
                assert evidence.row.contrast == diagnosis.contrast
    return {diagnosis.rule: diagnosis for diagnosis in diagnoses}


# --- which rules, against what --------------------------------------------------------------------


def test_every_rule_answers_for_every_candidate():
    found = diagnose(small_comparison())
    checked(found)
    assert [(each.rule, each.reference) for each in found] == [
        ("over-alignment", "tuned"),
        ("insufficient-alignment", "tuned"),
        ("hidden-losers", "tuned"),
        ("hidden-losers", "base"),
        ("loss-in-english", "tuned"),
        ("loss-in-english", "base"),
        ("price", "tuned"),
    ]
    without = diagnose(small_comparison(control=False))
    checked(without)
    assert [each.rule for each in without] == list(RULES)
    assert {(each.reference, each.contrast) for each in without} == {("base", "candidate-base")}
    assert diagnose(single_run()) == []


def test_the_control_as_a_candidate_is_held_against_the_base():
    results = {"base": measured("base"), "tuned": measured("tuned"), "alignx": measured("alignx")}
    found = diagnose(compare(results, base="base", candidates=["tuned", "alignx"], control="tuned"))
    assert {each.reference for each in found if each.candidate == "tuned"} == {"base"}
    assert {each.reference for each in found if each.candidate == "alignx"} == {"base", "tuned"}


def test_rules_state_their_thresholds():
    for limit in {card.noticeable for card in METRICS.values()} - {None}:
        assert any(f"{limit:g}" in rule for rule in RULES.values())
    assert all(
        rule.startswith("Found where") and "not found where" in rule or rule.startswith("Found")
        for rule in RULES.values()
    )


# --- over-alignment -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("planted", "language", "words"),
    [
        (
            {"identity": (-0.05, -0.05), "recall": {"tur_Latn": -0.3}},
            "tur_Latn",
            "language identity in the last state fell, most of all in",
        ),
        (
            {"off_target": {"eng_Latn-rus_Cyrl": 0.2}},
            "rus_Cyrl",
            "off-target rate rose in 1 of 10 directions, eng_Latn -> rus_Cyrl +0.",
        ),
        ({"bits": {"zho_Hans": 0.1}}, "zho_Hans", "bits per byte rose in 1 of 6 languages, zho_Hans +0."),
    ],
)
def test_over_alignment_is_found_with_its_language(planted, language, words):
    diagnosis = against(measured("alignx", retrieval=0.1, **planted))["over-alignment"]
    assert diagnosis.status == "found"
    assert words in diagnosis.sentence and f"{language}" in diagnosis.sentence.split("Lost:")[1].split("Beside")[0]
    assert "Improved: precision@1 at layer 2 (the align layer) +0.1" in diagnosis.sentence
    assert "n = 500, 250 clusters" in diagnosis.sentence
    assert diagnosis.evidence[0].row is None and "precision@1 at layer 2" in diagnosis.evidence[0].text
    assert any(
        evidence.row is not None and language in (evidence.row.language, evidence.row.other_language)
        for evidence in diagnosis.evidence
    )
    # the two signs that are not there are told with what their intervals leave possible
    assert diagnosis.sentence.split("Beside that:")[1].count(";") == 1


def test_over_alignment_by_a_mean_that_rises_while_a_language_loses():
    bits = everywhere(-0.05) | {"tur_Latn": 0.05}
    diagnosis = against(measured("alignx", bits=bits))["over-alignment"]
    assert diagnosis.status == "found"
    assert "Improved: bits per byte -0.0" in diagnosis.sentence and "tur_Latn" in diagnosis.sentence


def test_over_alignment_of_a_mean_off_target_rate_that_rises_in_no_single_direction():
    small = {f"{PIVOT}-{code}": 0.008 for code in OTHERS} | {f"{code}-{PIVOT}": 0.008 for code in OTHERS}
    diagnosis = against(measured("alignx", retrieval=0.1, off_target=small))["over-alignment"]
    assert diagnosis.status == "found"
    assert (
        "off-target rate is not shown to rise in any of 10 directions alone, but rose on average by +0.0"
        in diagnosis.sentence
    )
    assert "yet below the limit of 0.05" in diagnosis.sentence


def test_a_gain_without_a_loss_is_no_over_alignment():
    diagnosis = against(measured("alignx", retrieval=0.1))["over-alignment"]
    assert diagnosis.status == "not-found"
    assert (
        "no sign of over-alignment: language identity in the last state shows no evidence of a fall"
        in diagnosis.sentence
    )
    assert "off-target rate is not shown to rise in any of 10 directions (up to 0.0" in diagnosis.sentence
    assert "bits per byte is not shown to rise in any of 6 languages (up to 0.0" in diagnosis.sentence


def test_a_loss_without_alignment_is_no_over_alignment_but_is_told():
    diagnosis = against(measured("alignx", bits={"rus_Cyrl": 0.1}))["over-alignment"]
    assert diagnosis.status == "not-found"
    assert "as there is little alignment" in diagnosis.sentence
    assert "Lost all the same: bits per byte rose in 1 of 6 languages, rus_Cyrl" in diagnosis.sentence


def test_a_loss_beside_an_unmeasured_gain_cannot_be_told():
    suites = ("language_id", "language_modelling")
    found = against(measured("alignx", bits={"rus_Cyrl": 0.1}, suites=suites), measured("base", suites=suites))
    diagnosis = found["over-alignment"]
    assert diagnosis.status == "cannot-tell"
    assert "no gain is established (precision@1 at layer 2 (the align layer) was not measured)" in diagnosis.sentence
    assert "Lost: bits per byte rose in 1 of 6 languages, rus_Cyrl" in diagnosis.sentence
    assert "off-target rate was not measured" in diagnosis.sentence


@pytest.mark.parametrize(("suite", "words"), [("language_id", "language identity"), ("translation", "off-target rate")])
def test_over_alignment_is_not_denied_where_a_sign_was_not_measured(suite, words):
    suites = tuple(each for each in ("layers", "language_id", "language_modelling", "translation") if each != suite)
    diagnosis = against(measured("alignx", retrieval=0.1, suites=suites), measured("base", suites=suites))[
        "over-alignment"
    ]
    assert diagnosis.status == "cannot-tell"
    assert words in diagnosis.sentence and "was not measured" in diagnosis.sentence


def test_language_identity_has_to_fall_on_both_sides_of_the_final_norm():
    diagnosis = against(measured("alignx", retrieval=0.1, identity=(-0.008, 0.0)))["over-alignment"]
    assert diagnosis.status == "not-found"
    assert "fell on one side of the final norm only, so no fall is claimed" in diagnosis.sentence
    diagnosis = against(measured("alignx", retrieval=0.1, identity=(-0.1, 0.0)))["over-alignment"]
    assert diagnosis.status == "cannot-tell" and "above the limit of 0.02" in diagnosis.sentence


# --- insufficient alignment -----------------------------------------------------------------------


def test_S5_insufficient_alignment():
    def answer(**fields):
        return against(measured("alignx", **fields))["insufficient-alignment"]

    found = answer()
    assert found.status == "found" and "even the upper end of the interval is below the 0.02" in found.sentence
    assert answer(retrieval=0.01).status == "found"  # a gain, established and too small
    assert answer(retrieval=-0.1).status == "found"
    absent = answer(retrieval=0.1)
    assert absent.status == "not-found" and "even the lower end of the interval is above the 0.02" in absent.sentence
    assert "mean of 10 directions" in absent.sentence and "n = 500, 250 clusters" in absent.sentence
    near = answer(retrieval=0.02)
    assert near.status == "cannot-tell" and "a gain is established, but the interval does not tell" in near.sentence
    wide = answer(retrieval=0.01, noise=0.5)
    assert wide.status == "cannot-tell" and "no evidence of a gain, but the interval leaves room" in wide.sentence
    differences = [
        evidence.row.difference for evidence in absent.evidence if evidence.row is not None and evidence.row.language
    ]
    assert differences == sorted(differences) and absent.more == 2 + 10 - MAXIMUM_EVIDENCE


def test_insufficient_alignment_is_judged_at_the_recorded_layer_only():
    results = {"base": measured("base"), "alignx": measured("alignx", retrieval=0.1)}
    comparison = compare(results, base="base", candidates=["alignx"], checkpoints={"alignx": {"align_layer": 3}})
    diagnosis = checked(diagnose(comparison))["insufficient-alignment"]
    assert diagnosis.status == "found" and "at layer 3 (the align layer)" in diagnosis.sentence
    comparison = compare(results, base="base", candidates=["alignx"])
    diagnosis = checked(diagnose(comparison))["insufficient-alignment"]
    assert diagnosis.status == "not-found" and "the middle one; no align layer is recorded" in diagnosis.sentence


def test_a_reference_at_the_ceiling_leaves_nothing_to_gain():
    found = against(measured("alignx", start=0.97, bits={"rus_Cyrl": 0.1}), measured("base", start=0.97))
    assert (
        found["insufficient-alignment"].status == "cannot-tell"
        and "near the ceiling" in found["insufficient-alignment"].sentence
    )
    assert found["over-alignment"].status == "cannot-tell"


# --- hidden losers --------------------------------------------------------------------------------


def test_hidden_losers_are_named():
    bits = everywhere(-0.05) | {"tur_Latn": 0.05, "deu_Latn": 0.03}
    diagnosis = against(measured("alignx", bits=bits))["hidden-losers"]
    assert diagnosis.status == "found"
    assert "2 languages (deu_Latn, tur_Latn) lost under a mean that improved: bits per byte -0.0" in diagnosis.sentence
    assert "but it rose in 2 of 6 languages, most in tur_Latn +0.0" in diagnosis.sentence
    assert [evidence.row.language for evidence in diagnosis.evidence if evidence.row is not None] == [
        "tur_Latn",
        "deu_Latn",
    ]


def test_hidden_losers_of_directions_are_named_by_their_own_language():
    correct = (
        {f"{PIVOT}-{code}": 1 for code in OTHERS}
        | {f"{code}-{PIVOT}": 1 for code in OTHERS}
        | {"eng_Latn-zho_Hans": -1}
    )
    diagnosis = against(measured("alignx", correct=correct))["hidden-losers"]
    assert diagnosis.status == "found"
    assert "1 language (zho_Hans) lost" in diagnosis.sentence and "eng_Latn -> zho_Hans -" in diagnosis.sentence


def test_no_hidden_losers():
    diagnosis = against(measured("alignx", bits=everywhere(-0.05)))["hidden-losers"]
    assert diagnosis.status == "not-found"
    assert (
        "bits per byte is" not in diagnosis.sentence
        and "it is not shown to rise in any of 6 languages" in diagnosis.sentence
    )
    # no mean improved: nothing to hide under, and who lost in the open is counted
    suites = ("layers", "language_modelling")
    diagnosis = against(measured("alignx", bits={"rus_Cyrl": 0.1}, suites=suites), measured("base", suites=suites))[
        "hidden-losers"
    ]
    assert diagnosis.status == "not-found"
    assert "as no mean is established to have improved" in diagnosis.sentence
    assert "In the open, 1 result of single languages got worse" in diagnosis.sentence


def test_hidden_losers_cannot_be_told_from_wide_intervals():
    bits = everywhere(-0.1) | {"tur_Latn": 0.02}
    diagnosis = against(measured("alignx", bits=bits, noise=0.2), measured("base", noise=0.2))["hidden-losers"]
    assert diagnosis.status == "cannot-tell"
    assert "remains possible in tur_Latn, above the limit of 0.02" in diagnosis.sentence


# --- loss in English ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ({"bits": {PIVOT: 0.05}}, "bits per byte of eng_Latn rose by +0.05"),
        ({"task": {PIVOT: -0.1}}, "choice.acc of eng_Latn fell by -0."),
        ({"correct": {f"{code}-{PIVOT}": -1 for code in OTHERS}}, "BLEU of translation into eng_Latn -"),
        (
            {"off_target": {f"{code}-{PIVOT}": 0.1 for code in OTHERS}},
            "off-target rate of translation into eng_Latn +0.",
        ),
    ],
)
def test_loss_in_english_is_found(planted, words):
    diagnosis = against(measured("alignx", **planted))["loss-in-english"]
    assert diagnosis.status == "found"
    assert f"eng_Latn got worse: {words}" in diagnosis.sentence
    assert "n = 500, 250 clusters" in diagnosis.sentence


def not_to_judge(results: dict[str, SuiteResult], metric: str, *languages: str) -> dict[str, SuiteResult]:
    """The results with rows of a metric that are a bound, in `languages` or in all."""
    return {
        suite: dataclasses.replace(
            result,
            rows=[
                dataclasses.replace(row, unjudged="a bound")
                if row.metric == metric and (not languages or row.language in languages)
                else row
                for row in result.rows
            ],
        )
        for suite, result in results.items()
    }


def test_rows_that_must_not_be_judged_establish_nothing_and_rule_nothing_out():
    lost = measured("alignx", retrieval=0.1, bits={"tur_Latn": 0.5})
    assert against(lost)["over-alignment"].status == "found"
    found = against(not_to_judge(lost, "bits_per_byte", "tur_Latn"))["over-alignment"]
    assert found.status == "cannot-tell" and "(1 not judged: tur_Latn)" in found.sentence
    kept = measured("alignx", retrieval=0.1)
    assert against(kept)["over-alignment"].status == "not-found"
    assert against(not_to_judge(kept, "bits_per_byte", "tur_Latn"))["over-alignment"].status == "cannot-tell"
    gained = measured("alignx", correct={pair: 1 for code in OTHERS for pair in (f"{PIVOT}-{code}", f"{code}-{PIVOT}")})
    assert "under the means that improved: BLEU +" in against(gained)["hidden-losers"].sentence
    told = against(not_to_judge(gained, "bleu")).values()
    assert not any("BLEU +" in diagnosis.sentence for diagnosis in told)


def test_headlines_without_enough_clusters_make_no_claim():
    sides = {
        name: measured(name, retrieval=shift, per_document=100) for name, shift in (("base", 0.0), ("alignx", 0.2))
    }
    comparison = compare(
        sides, base="base", candidates=["alignx"], checkpoints={"base": {}, "alignx": {"align_layer": 2}}
    )
    report = report_of(comparison, None)
    changes = [change for headline in report.headlines for change in headline.changes]
    assert changes and {change.word for change in changes} == {"no-claim"}
    assert "no claim (5 clusters, a verdict needs 10): +0.2" in report.findings[0] and "better" not in " ".join(
        report.findings
    )


def test_loss_in_english_is_not_that_of_another_language():
    planted = {
        "bits": {"deu_Latn": 0.1},
        "task": {"deu_Latn": -0.2},
        "correct": {f"{PIVOT}-{code}": -1 for code in OTHERS},
    }
    diagnosis = against(measured("alignx", **planted))["loss-in-english"]
    assert diagnosis.status == "not-found"
    assert "no noticeable loss in eng_Latn: bits per byte of eng_Latn" in diagnosis.sentence
    assert diagnosis.sentence.count("mean of 5 directions, ") == 3 and "worse" not in diagnosis.sentence


def test_loss_in_english_cannot_be_told():
    suites = ("layers", "language_modelling")
    diagnosis = against(measured("alignx", suites=suites), measured("base", suites=suites))["loss-in-english"]
    assert diagnosis.status == "cannot-tell"
    assert (
        "BLEU of translation into eng_Latn was not measured" in diagnosis.sentence
        and "no task in eng_Latn was measured" in diagnosis.sentence
    )
    diagnosis = against(measured("alignx", noise=0.5), measured("base", noise=0.5))["loss-in-english"]
    assert diagnosis.status == "cannot-tell" and "above the limit of 0.02" in diagnosis.sentence


def test_loss_in_the_pivot_of_another_corpus():
    sides = [measured("base"), measured("alignx", bits={"deu_Latn": 0.1})]
    for side in sides:
        side["translation"].fingerprint["pivot"] = "deu_Latn"
    found = against(sides[1], sides[0])
    assert (
        found["loss-in-english"].status == "found"
        and "deu_Latn got worse: bits per byte of deu_Latn" in found["loss-in-english"].sentence
    )


# --- price ----------------------------------------------------------------------------------------

PRETRAIN = {
    "stage": "pretrain",
    "tokens": 9e6,
    "seconds": 3000.0,
    "flops": 2e14,
    "peak_memory_bytes": 4 * 2**30,
    "device": "CPU",
}
CONTROL = {
    "stage": "control",
    "tokens": 2e6,
    "seconds": 300.0,
    "flops": 4e13,
    "peak_memory_bytes": 2**30,
    "device": "CPU",
}
STAGE_1 = {
    "stage": "stage 1",
    "tokens": 1e6,
    "seconds": 200.0,
    "flops": 2e13,
    "peak_memory_bytes": 2**30,
    "device": "CPU",
}
STAGE_2 = {
    "stage": "stage 2",
    "tokens": 1e6,
    "seconds": 250.0,
    "flops": 2e13,
    "peak_memory_bytes": 2**29,
    "device": "CPU",
}


def priced(own: list, control: list | None, *, base: list | None = None, retrieval: float = 0.1) -> Diagnosis:
    base = [PRETRAIN] if base is None else base
    stages = {"base": base, "alignx": [*base, *own]} | ({} if control is None else {"tuned": [*base, *control]})
    shifts = {"alignx": retrieval}
    results = {name: measured(name, retrieval=shifts.get(name, 0.0), suites=("layers",)) for name in stages}
    comparison = compare(
        results,
        base="base",
        candidates=["alignx"],
        control="tuned" if control is not None else None,
        checkpoints={name: {"align_layer": 2, "provenance": {"stages": listed}} for name, listed in stages.items()},
    )
    return checked(diagnose(comparison))["price"]


def without(stage: dict, *names: str) -> dict:
    return {name: value for name, value in stage.items() if name not in names}


def test_a_higher_price_is_found_and_put_beside_the_gain():
    price = priced([STAGE_1, STAGE_2], [CONTROL])
    assert price.status == "found" and price.reference == "tuned"
    assert "it cost more: 1.50 times the time (7.5 against 5.0 min), 1.00 times the tokens" in price.sentence
    assert "1.00 times the peak memory (1.00 against 1.00 GiB peak memory)" in price.sentence  # of stages the largest
    texts = [evidence.text for evidence in price.evidence]
    assert texts[0] == "time: 7.5 against 5.0 min, 1.50 times"
    assert any(text.startswith("alignx, stage stage 1: 3.3 min") for text in texts)
    assert any(text.startswith("alignx, stage stage 2: 4.2 min") for text in texts)
    assert any(text.startswith("tuned, stage control: 5.0 min") for text in texts) and not any(
        "pretrain" in text for text in texts
    )
    # seconds of +0.01: all 450 of them over the base, the extra 150 over the control; tokens are not dearer, so they
    # have no extra
    gains = {diagnosis.reference: diagnosis for diagnosis in [price]}
    assert set(gains) == {"tuned"}
    over_base, over_control = price.sentence.split("Precision@1 gained ")[1:]
    assert " over base, so each +0.01 took 4" in over_base and " s (" in over_base and "tokens" in over_base
    assert " over tuned, so each +0.01 took an extra 1" in over_control and "tokens" not in over_control


def test_price_per_gain_is_the_amount_over_the_gain():
    price = priced([STAGE_1, STAGE_2], None)
    gain, low, high = (
        float(number)
        for number in price.sentence.split("gained ")[1].split("]")[0].replace("[", "").replace(",", "").split()
    )
    seconds, rest = price.sentence.split("each +0.01 took ")[1].split(" s (", 1)
    cheapest, dearest = rest.split(" s)")[0].split(" to ")
    assert float(seconds) == pytest.approx(4.5 / gain, rel=0.01)
    assert (float(cheapest), float(dearest)) == (
        pytest.approx(4.5 / high, rel=0.01),
        pytest.approx(4.5 / low, rel=0.01),
    )


def test_no_higher_price():
    price = priced([STAGE_1, without(STAGE_2, "seconds") | {"seconds": 110.0}], [CONTROL])
    assert price.status == "not-found"
    assert "nothing above 1.05 times: 1.03 times the time" in price.sentence
    assert "over base, so each +0.01 took" in price.sentence and "an extra" not in price.sentence


def test_no_price_of_a_gain_that_is_not_established():
    price = priced([STAGE_1, STAGE_2], [CONTROL], retrieval=0.0)
    assert price.status == "found" and "each +0.01" not in price.sentence


def test_price_without_a_control():
    price = priced([STAGE_1, STAGE_2], None)
    assert (price.status, price.reference) == ("found", "base")
    assert (
        "took 7.5 min, 2.00 million tokens, 4.00e+13 FLOPs and 1.00 GiB peak memory; without a control"
        in price.sentence
    )
    price = priced([without(STAGE_1, "flops"), STAGE_2], None)
    assert "(FLOPs not recorded)" in price.sentence


def test_price_of_missing_provenance_cannot_be_told():
    price = priced([], [CONTROL])
    assert price.status == "cannot-tell" and "no training stage of its own is recorded" in price.sentence
    price = priced([{"stage": "stage 1"}], [CONTROL])
    assert price.status == "cannot-tell" and "its stages record no time" in price.sentence
    price = priced([STAGE_1], [])
    assert (
        price.status == "cannot-tell"
        and "nothing is recorded for both; its own training took 3.3 min" in price.sentence
    )
    results = {name: measured(name, suites=("layers",)) for name in ("base", "alignx")}
    price = checked(diagnose(compare(results, base="base", candidates=["alignx"])))["price"]
    assert price.status == "cannot-tell"


def test_price_of_incomplete_provenance():
    cheap = [without(STAGE_1, "seconds", "peak_memory_bytes"), without(STAGE_2, "peak_memory_bytes")]
    price = priced(cheap, [CONTROL])
    assert price.status == "cannot-tell" and "not recorded for both: time and peak memory" in price.sentence
    price = priced([*cheap, STAGE_1 | {"stage": "stage 3"}], [CONTROL])  # what is recorded is dearer, whatever the rest
    assert price.status == "found" and "1.50 times the tokens" in price.sentence
    price = priced([STAGE_1 | {"seconds": math.nan}, STAGE_2 | {"flops": math.inf}], [CONTROL])
    assert "not recorded for both: time and FLOPs" in price.sentence
    price = priced(["what", STAGE_1], [CONTROL | {"tokens": 0}])
    assert "not recorded for both: tokens" in price.sentence


def test_times_of_different_devices_do_not_compare():
    price = priced([STAGE_1, STAGE_2], [CONTROL | {"device": "H100"}])
    assert "the devices differ (CPU and H100), so the times do not compare" in price.sentence


# --- limits ---------------------------------------------------------------------------------------


def test_S10_too_few_data_cannot_be_told():
    few = {"lines": 40, "per_document": 5}  # 8 clusters
    planted = measured(
        "alignx",
        retrieval=0.1,
        bits=everywhere(0.2),
        off_target={"eng_Latn-rus_Cyrl": 0.3},
        identity=(-0.1, -0.1),
        **few,
    )
    found = against(planted, measured("base", **few))
    assert {diagnosis.status for diagnosis in found.values()} == {"cannot-tell"}
    assert "8 clusters, a verdict needs 10" in found["over-alignment"].sentence
    assert "8 clusters, a verdict needs 10" in found["loss-in-english"].sentence


def test_S10_nothing_measured_cannot_be_told():
    found = checked(diagnose(compare({"base": {}, "alignx": {}}, base="base", candidates=["alignx"])))
    assert {diagnosis.status for diagnosis in found.values()} == {"cannot-tell"} and set(found) == set(RULES)


def test_a_language_that_was_not_judged_is_named():
    base, alignx = measured("base"), measured("alignx", retrieval=0.1)
    rows = alignx["language_modelling"].rows
    index = next(index for index, row in enumerate(rows) if row.language == "tur_Latn")
    rows[index] = dataclasses.replace(rows[index], value=None, reason="no text")
    diagnosis = against(alignx, base)["over-alignment"]
    assert "in any of 5 languages" in diagnosis.sentence and "(1 not judged: tur_Latn)" in diagnosis.sentence


def test_S9_a_checkpoint_against_itself():
    found = against(measured("base"))
    statuses = {rule: diagnosis.status for rule, diagnosis in found.items()}
    assert statuses["insufficient-alignment"] == "found"
    assert statuses["over-alignment"] == statuses["hidden-losers"] == "not-found"
    assert (
        found["loss-in-english"].status != "found" and "is as it was in every item" in found["loss-in-english"].sentence
    )


def test_S7_without_a_difference_rules_are_rarely_found():
    alarms = dict.fromkeys(("over-alignment", "hidden-losers", "loss-in-english"), 0)
    suites = ("layers", "language_id", "language_modelling", "translation")
    runs = 40
    for seed in range(runs):
        sides = [measured(f"{seed} {side}", lines=60, noise=0.1, suites=suites) for side in ("a", "b")]
        found = against(*sides)
        for rule in alarms:
            alarms[rule] += found[rule].status == "found"
    # over-alignment and hidden losers need two findings at once; English has three means at 2.5 % each (one side) that
    # are not adjusted
    for rule, rate in (("over-alignment", 0.05), ("hidden-losers", 0.05), ("loss-in-english", 0.1)):
        assert stats.binomtest(alarms[rule], runs, rate, alternative="greater").pvalue > 0.001, alarms


def test_evidence_is_capped_and_the_worst_comes_first():
    bits = {language: 0.05 + 0.01 * index for index, language in enumerate(LANGUAGES)}
    off = {f"{PIVOT}-{code}": 0.2 for code in OTHERS}
    diagnosis = against(measured("alignx", retrieval=0.1, bits=bits, off_target=off))["over-alignment"]
    assert len(diagnosis.evidence) == MAXIMUM_EVIDENCE and diagnosis.more > 0
    gain, *losses = diagnosis.evidence
    assert gain.row is None
    modelling = [
        evidence.row for evidence in losses if evidence.row is not None and evidence.row.metric == "bits_per_byte"
    ]
    assert modelling[0].language == LANGUAGES[-1]
    assert [row.difference for row in modelling] == sorted((row.difference for row in modelling), reverse=True)
    assert [evidence.row.metric for evidence in losses if evidence.row is not None][:2] == [
        "bits_per_byte",
        "off_target_rate",
    ]


def test_rows_without_items_have_no_mean_but_that_of_the_suite():
    comparison = large_comparison(languages=8, blocks=6)
    mean = next(
        row for row in comparison.rows if (row.metric, row.layer, row.language) == ("precision_at_1", "3", None)
    )
    told = checked(diagnose(comparison))["insufficient-alignment"]
    assert told.status != "cannot-tell" and interval_text(mean.difference, mean.ci_low, mean.ci_high) in told.sentence
    comparison.rows.remove(mean)
    assert checked(diagnose(comparison))["insufficient-alignment"].status == "cannot-tell"


def test_diagnosis_is_plain_data_and_changes_nothing():
    comparison: Comparison = small_comparison()
    rows = list(comparison.rows)
    first, second = diagnose(comparison), diagnose(comparison)
    assert first == second and comparison.rows == rows
    json.dumps([dataclasses.asdict(each) for each in first], allow_nan=False)
