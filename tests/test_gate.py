"""The policy and the gate: what is red, amber, green, grey and missing, and that noise is not red."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import yaml
from scipy import stats

from alignx_eval.comparison.compare import compare
from alignx_eval.comparison.rows import Comparison, ComparisonRow
from alignx_eval.errors import InputError
from alignx_eval.judgement.gate import Verdict, judge
from alignx_eval.judgement.policy import (
    DEFAULT_POLICY_YAML,
    POLICY_FORMAT,
    Policy,
    default_policy,
    load_policy,
    policy_schema,
)
from alignx_eval.results import Items, Row, SuiteResult
from alignx_eval.statistics.multiplicity import benjamini_hochberg

RULE = {"suite": "tasks", "metric": "*", "tolerance": 0.1}


def policy(*rules: dict, **fields) -> Policy:
    return Policy.model_validate({"require_all": False, "rules": list(rules) or [RULE], **fields})


def row(loss: float, se: float | None = 0.02, **fields) -> ComparisonRow:
    """A row of a metric of which lower is better, with independent items."""
    known = {
        "suite": "tasks",
        "metric": "m.error",
        "layer": None,
        "language": "deu_Latn",
        "other_language": None,
        "contrast": "candidate-base",
        "base_name": "base",
        "candidate_name": "candidate",
        "base": 1.0,
        "candidate": 1.0 + loss,
        "difference": loss,
        "se": se,
        "degrees_of_freedom": None if se is None else 199.0,
        "n": 400,
        "clusters": 200,
        "higher_is_better": False,
        "verdict": "no-evidence",
    }
    return ComparisonRow(**{**known, **fields})


def comparison(*rows: ComparisonRow, **fields) -> Comparison:
    candidates = list(dict.fromkeys(each.candidate_name for each in rows)) or ["candidate"]
    return Comparison(
        **{
            "base": "base",
            "candidates": candidates,
            "control": None,
            "rows": list(rows),
            "results": {},
            "corpus": {},
            "checkpoints": {name: {} for name in ("base", *candidates)},
            **fields,
        }
    )


def statuses(verdict: Verdict) -> dict[str, str]:
    return {each.key.split("/")[1]: each.status for candidate in verdict.candidates for each in candidate.rows}


def test_red_amber_green_grey_and_missing():
    verdict = judge(
        comparison(
            row(0.30, metric="red"),
            row(0.12, metric="amber"),
            row(0.02, metric="green"),
            row(0.30, metric="few_items", n=20),
            row(0.30, metric="few_clusters", clusters=4),
            row(0.30, metric="no_interval", se=None, reason="no statistics per item"),
            row(0.0, metric="gone", candidate=None, difference=None, se=None, reason="not measured for candidate"),
            row(0.0, metric="new", base=None, difference=None, se=None, reason="not measured for base"),
            row(0.0, metric="no_direction", higher_is_better=None),
        ),
        policy(),
    )
    assert statuses(verdict) == {
        "red": "red",
        "amber": "amber",
        "green": "green",
        "few_items": "grey",
        "few_clusters": "grey",
        "no_interval": "grey",
        "gone": "missing",
        "new": "missing",
    }
    assert verdict.outcome == "fail" and verdict.exit_code() == verdict.exit_code(strict=True) == 3
    assert "red" in verdict.sentence and "lost 0.300" in verdict.sentence and "2 missing" in verdict.sentence
    assert [each.key.split("/")[1] for each in verdict.worst(2)] == ["red", "gone"]


def test_outcomes_and_exit_codes():
    red, amber, green = row(0.3, metric="red"), row(0.12, metric="amber"), row(0.0, metric="green")
    gone = row(0.0, metric="gone", candidate=None, difference=None, se=None, reason="not measured for candidate")
    grey = row(0.3, metric="grey", n=20)
    for rows, outcome, code, strict in (
        ([green], "pass", 0, 0),
        ([green, amber], "inconclusive", 0, 4),
        ([green, grey], "inconclusive", 0, 4),
        ([green, gone], "incomplete", 2, 2),
        ([green, amber, gone, red], "fail", 3, 3),
        ([grey], "incomplete", 2, 2),  # nothing was judged
        ([], "incomplete", 2, 2),
    ):
        verdict = judge(comparison(*rows), policy())
        assert (verdict.outcome, verdict.exit_code(), verdict.exit_code(strict=True)) == (outcome, code, strict), (
            verdict.sentence
        )
        assert verdict.sentence.startswith(outcome.upper())


def test_p_is_the_one_sided_t_test_against_the_tolerance():
    losses = [0.25, 0.14, 0.11, 0.05, -0.2]
    gated = judge(comparison(*(row(loss, metric=f"m{loss}") for loss in losses)), policy()).candidates[0].rows
    by_loss = {each.loss: each for each in gated}
    expected = {loss: stats.t.sf((loss - 0.1) / 0.02, 199) for loss in losses}
    for loss, p in expected.items():
        assert by_loss[loss].p == pytest.approx(p, rel=1e-5)
        assert by_loss[loss].loss_at_most == pytest.approx(loss + stats.t.ppf(0.95, 199) * 0.02)
    adjusted = benjamini_hochberg([by_loss[loss].p for loss in losses])
    assert [by_loss[loss].p_adjusted for loss in losses] == pytest.approx(list(adjusted))


def test_a_row_is_red_exactly_where_its_selection_adjusted_bound_is_beyond_the_tolerance():
    random = np.random.default_rng(0)
    seen = 0
    for _ in range(30):
        losses = random.normal(0.12, 0.05, 40)
        skewness = random.normal(0, 0.3, 40)
        rows = [row(loss, metric=f"m{number}", skewness=skewness[number]) for number, loss in enumerate(losses)]
        gated = judge(comparison(*rows), policy()).candidates[0].rows
        red = [each for each in gated if each.status == "red"]
        seen += len(red)
        assert all(each.loss_at_least > each.tolerance for each in red)
        assert all(each.p_adjusted < 0.05 for each in red) and all(
            each.p_adjusted >= 0.05 for each in gated if each.status != "red"
        )
    assert seen > 20


def test_bounds_stay_dual_where_rules_have_levels_of_their_own():
    random = np.random.default_rng(1)
    rules = [RULE, {**RULE, "metric": "careful*", "alpha": 0.005}]
    seen = set()
    for _ in range(40):
        rows = [
            row(loss, metric=f"{name}{number}")
            for name in ("careful", "plain")
            for number, loss in enumerate(random.normal(0.14, 0.04, 10))
        ]
        for each in judge(comparison(*rows), policy(*rules)).candidates[0].rows:
            assert each.alpha == (0.005 if "careful" in each.key else 0.05)
            assert (each.status == "red") == (each.p_adjusted < each.alpha)
            assert each.status != "red" or each.loss_at_least > each.tolerance
            seen.add((each.alpha, each.status))
    assert {(0.005, "red"), (0.05, "red")} <= seen


def test_what_is_undefined_for_both_was_not_lost():
    undefined = {"difference": None, "se": None}
    verdict = judge(
        comparison(
            row(0.0, metric="fine"),
            row(0.0, metric="both", base=None, candidate=None, reason="undefined for base: no word", **undefined),
            row(0.0, metric="base_only", base=None, reason="undefined for base: no word", **undefined),
            row(0.0, metric="candidate_only", candidate=None, reason="undefined for candidate: no word", **undefined),
        ),
        policy(),
    )
    assert statuses(verdict) == {"fine": "green", "both": "grey", "base_only": "grey", "candidate_only": "missing"}


def test_a_loss_of_exactly_the_tolerance_is_not_beyond_it():
    assert statuses(judge(comparison(row(0.3 - 0.2, metric="m")), policy())) == {"m": "green"}  # 0.09999999999999998
    assert statuses(judge(comparison(row(0.52 - 0.42, metric="m", se=0.0)), policy())) == {
        "m": "green"
    }  # 0.10000000000000003


def test_higher_is_better_and_direction():
    lost = row(-0.3, metric="accuracy", higher_is_better=True, skewness=0.2)
    gained = row(0.3, metric="gain", higher_is_better=True)
    verdict = judge(comparison(lost, gained), policy())
    assert statuses(verdict) == {"accuracy": "red", "gain": "green"}
    assert verdict.candidates[0].rows[0].skewness == -0.2
    probe = row(-0.3, metric="probe", higher_is_better=None)
    assert statuses(judge(comparison(probe), policy({**RULE, "direction": "higher"}))) == {"probe": "red"}
    assert statuses(judge(comparison(probe), policy({**RULE, "direction": "lower"}))) == {"probe": "green"}


def test_families_are_apart_by_level_and_only_block_fails():
    rows = [row(0.3, metric="bad", language=code) for code in ("deu_Latn", "fra_Latn")] + [row(0.14, metric="close")]
    alone = judge(comparison(rows[2]), policy()).candidates[0].rows[0]
    warn = {"suite": "tasks", "metric": "bad", "tolerance": 0.1, "level": "warn"}
    verdict = judge(comparison(*rows), policy(RULE, warn))
    assert verdict.candidates[0].counts("warn")["red"] == 2
    close = next(each for each in verdict.candidates[0].rows if each.level == "block")
    assert close.p_adjusted == alone.p_adjusted  # warnings do not change what blocks
    assert verdict.outcome == "fail"
    info = judge(comparison(*rows[:2], row(0.0, metric="fine")), policy(RULE, {**warn, "level": "info"}))
    assert info.outcome == "pass" and info.candidates[0].counts("info")["red"] == 2


def test_the_last_rule_that_matches_decides_by_metric_language_group_and_layer():
    rules = [
        {**RULE, "tolerance": 0.1},
        {**RULE, "tolerance": 0.2, "languages": ["*_Cyrl"]},
        {**RULE, "tolerance": 0.3, "languages": ["nordic"]},
        {**RULE, "tolerance": 0.4, "languages": ["mean"]},
        {**RULE, "metric": "special*", "tolerance": 0.5, "min_n": 300, "alpha": 0.01},
        {"suite": "layers", "metric": "*", "tolerance": 0.6},
        {"suite": "layers", "metric": "*", "tolerance": 0.7, "layers": ["9+norm"]},
    ]
    rows = [
        row(0, metric="a"),
        row(0, metric="b", language="rus_Cyrl"),
        row(0, metric="c", language="swe_Latn"),
        row(0, metric="d", language=None),
        row(0, metric="special.x"),
        row(0, metric="e", suite="layers", layer="4"),
        row(0, metric="f", suite="layers", layer="5"),
        row(0, metric="g", suite="layers", layer="9+norm"),
        row(0, metric="h", suite="translation", other_language="eng_Latn"),
    ]
    checkpoints = {"base": {}, "candidate": {"align_layer": 4}}
    verdict = judge(
        comparison(*rows, checkpoints=checkpoints), policy(*rules, groups={"nordic": ["swe_Latn", "dan_Latn"]})
    )
    assert {each.key.split("/")[1]: each.tolerance for each in verdict.candidates[0].rows} == {
        "a": 0.1,
        "b": 0.2,
        "c": 0.3,
        "d": 0.4,
        "special.x": 0.5,
        "e": 0.6,
        "g": 0.7,
    }
    special = next(each for each in verdict.candidates[0].rows if "special" in each.key)
    assert special.alpha == 0.01


def test_a_direction_of_translation_belongs_to_the_language_that_is_not_the_pivot():
    rows = [
        row(0, suite="translation", language="eng_Latn", other_language="deu_Latn"),
        row(0, suite="translation", other_language="eng_Latn"),
    ]
    rule = {"suite": "translation", "metric": "*", "tolerance": 0.1}
    both = judge(comparison(*rows), policy({**rule, "languages": ["deu_Latn"]})).candidates[0].rows
    assert len(both) == 2
    assert not judge(comparison(*rows), policy({**rule, "languages": ["eng_Latn"]})).candidates[0].rows


def test_a_protected_language_must_be_shown_to_lose_less():
    wide, narrow = row(0.05, se=0.04, metric="wide"), row(0.05, se=0.01, metric="narrow")
    for protected, expected in (
        (["deu_Latn"], {"wide": "amber", "narrow": "green"}),
        ([], {"wide": "green", "narrow": "green"}),
    ):
        verdict = judge(comparison(wide, narrow), policy(protected=protected))
        assert statuses(verdict) == expected
    # The bound is that of a one-sided test at 5 %: 0.05 + 1.65 * se against 0.1.
    assert statuses(judge(comparison(row(0.05, se=0.0300, metric="m")), policy(protected=["deu_Latn"]))) == {
        "m": "green"
    }
    assert statuses(judge(comparison(row(0.05, se=0.0305, metric="m")), policy(protected=["deu_Latn"]))) == {
        "m": "amber"
    }
    assert statuses(judge(comparison(row(0.0, se=0.0, metric="m")), policy(protected=["deu_Latn"]))) == {"m": "green"}


def test_S10_what_the_policy_insists_on_must_be_there():
    verdict = judge(comparison(row(0.0)), policy({**RULE, "metric": "mispelt"}, RULE, require_all=True))
    assert verdict.outcome == "incomplete" and verdict.exit_code() == 2 and "mispelt" in verdict.sentence
    verdict = judge(comparison(row(0.0)), policy(require_all=True, protected=["swh_Latn"]))
    assert verdict.outcome == "incomplete" and "swh_Latn" in verdict.sentence
    assert judge(comparison(row(0.0)), policy(require_all=True, protected=["deu_Latn"])).outcome == "pass"


def test_nothing_to_gate_is_an_error():
    with pytest.raises(InputError, match="one checkpoint alone"):
        judge(comparison(row(0.0), candidates=[]), policy())
    with pytest.raises(InputError, match="control"):
        judge(comparison(row(0.0)), policy(against="control"))


def test_against_the_control():
    rows = [row(0.3), row(0.0, contrast="candidate-control", base_name="control")]
    verdict = judge(comparison(*rows, control="control"), policy(against="control"))
    assert verdict.outcome == "pass" and verdict.candidates[0].reference == "control"


def test_several_candidates_have_families_of_their_own_and_the_worst_decides():
    rows = [row(0.0, candidate_name="good"), row(0.3, candidate_name="bad"), row(0.12, candidate_name="unclear")]
    verdict = judge(comparison(*rows), policy())
    assert [each.outcome for each in verdict.candidates] == ["pass", "fail", "inconclusive"]
    assert verdict.outcome == "fail" and "bad against base" in verdict.sentence and "1 PASS" in verdict.sentence


def noise(random: np.random.Generator, rows: int, lines: int, shift: float) -> dict[str, SuiteResult]:
    """base and candidate with `rows` metrics over the same lines, the candidate worse by `shift` in truth."""
    common = random.standard_normal((lines, 1))
    sides = {}
    for name in ("base", "candidate"):
        values = common + random.standard_normal((lines, rows)) + (shift if name == "candidate" else 0.0)
        result = SuiteResult(
            "tasks",
            [],
            item_ids=tuple(map(str, range(lines))),
            default_clusters=tuple(str(line // 2) for line in range(lines)),
        )
        for number in range(rows):
            each = Row(
                suite="tasks",
                metric=f"m{number}",
                checkpoint=name,
                language="deu_Latn",
                value=float(values[:, number].mean()),
                n=lines,
                higher_is_better=False,
            )
            result.rows.append(each)
            result.items[each.key] = Items("mean", values[:, number])
        sides[name] = {"tasks": result}
    return sides


def test_S7_pure_noise_over_500_rows_is_rarely_red():
    """The hardest null: a true loss of exactly the tolerance in every row. benchmarks/gate.py has the full study."""
    random = np.random.default_rng(11)
    runs, red = 60, 0
    for _ in range(runs):
        differences = random.standard_normal((120, 500)) + 0.1
        values, errors = differences.mean(axis=0), differences.std(axis=0, ddof=1) / np.sqrt(120)
        rows = [
            row(values[i], se=errors[i], metric=f"m{i}", degrees_of_freedom=119.0, clusters=120) for i in range(500)
        ]
        red += judge(comparison(*rows), policy()).outcome == "fail"
    assert stats.binomtest(red, runs, 0.05, alternative="greater").pvalue > 0.01


def test_S7_noise_and_damage_from_items_to_the_verdict():
    random = np.random.default_rng(5)
    sides = noise(random, 60, 200, 0.0)
    one = sides["candidate"]["tasks"]
    key = one.rows[7].key
    one.items[key] = Items("mean", one.items[key].values + 0.8)
    one.rows[7] = dataclasses.replace(one.rows[7], value=one.rows[7].value + 0.8)
    verdict = judge(compare(sides, base="base", candidates=["candidate"]), policy({**RULE, "tolerance": 0.2}))
    assert [each.key for each in verdict.candidates[0].rows if each.status == "red"] == [key]
    assert verdict.candidates[0].rows[0].loss == pytest.approx(0.8, abs=0.5)


def test_default_policy_is_valid_and_gates_what_a_user_meets():
    chosen = default_policy()
    assert chosen.protected == ("eng_Latn",) and chosen.against == "base"
    assert {rule.suite for rule in chosen.rules if rule.level == "block"} == {
        "language_modelling",
        "translation",
        "tasks",
    }
    assert Policy.model_validate(yaml.safe_load(DEFAULT_POLICY_YAML)) == chosen
    assert json.dumps(policy_schema())
    assert set(policy_schema()["required"]) == {"format", "version", "rules"}


HEAD = f"format: {POLICY_FORMAT}\nversion: 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [", "not valid YAML"),
        ("just text", "not a gate policy"),
        ("rules: []", "not a gate policy"),
        (f"format: {POLICY_FORMAT}\nversion: 2\nrules: []", "has version 2"),
        (HEAD + "rules: []", "rules"),
        (HEAD + "rules: [{suite: tasks, metric: x}]", "rules.0.tolerance"),
        (HEAD + "rules: [{suite: tasks, metric: x, tolerance: -1}]", "rules.0.tolerance"),
        (HEAD + "rules: [{suite: tasks, metric: x, tolerance: .nan}]", "rules.0.tolerance"),
        (HEAD + "rules: [{suite: task, metric: x, tolerance: 1}]", "unknown suite 'task'"),
        (HEAD + "rules: [{suite: tasks, metric: x, tolerance: 1, level: fatal}]", "rules.0.level"),
        (HEAD + "rules: [{suite: tasks, metric: x, tolerance: 1, tolerence: 1}]", "tolerence"),
        (HEAD + "rules: [{suite: tasks, metric: x, tolerance: 1, languages: [de]}]", "no language is called 'de'"),
        (HEAD + "protected: [english]\nrules: [{suite: tasks, metric: x, tolerance: 1}]", "'english'"),
        (
            HEAD + "groups: {mean: [deu_Latn]}\nrules: [{suite: tasks, metric: x, tolerance: 1}]",
            "names languages already",
        ),
        (HEAD + "groups: {a: []}\nrules: [{suite: tasks, metric: x, tolerance: 1}]", "group 'a' is empty"),
    ],
)
def test_a_wrong_policy_is_told_with_its_place(tmp_path, text, message):
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_policy(path)
    assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_a_policy_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_policy(tmp_path / "none.yaml")
