"""Checkpoint series through the real `compare` and `judge`: trajectories, and the first step that would have failed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from alignx_eval.comparison.compare import compare
from alignx_eval.comparison.contrasts import contrasts_of
from alignx_eval.comparison.means import mean_difference
from alignx_eval.comparison.paired_items import point_of
from alignx_eval.comparison.rows import Comparison
from alignx_eval.judgement.gate import judge
from alignx_eval.judgement.policy import Policy, default_policy
from alignx_eval.judgement.series import Series, make_series, order_steps
from alignx_eval.results import Items, Row, SuiteResult

OTHERS = ("deu_Latn", "tur_Latn", "zho_Hans")
LINES = 160


def step_results(
    name: str, *, retrieval: float = 0.0, lost: str | None = None, without: tuple[str, ...] = ()
) -> dict[str, SuiteResult]:
    """Results of one checkpoint. `retrieval` moves precision@1 at layer 2, `lost` is a language whose bits per byte
    rise by 0.1."""
    shared, own = np.random.default_rng(3), np.random.default_rng(sum(map(ord, name)))
    suites: dict[str, SuiteResult] = {}

    def add(suite: str, metric: str, items: Items, higher: bool, layer=None, language=None, other=None) -> None:
        result = suites.setdefault(
            suite,
            SuiteResult(
                suite,
                [],
                default_clusters=tuple(f"document {line // 2}" for line in range(LINES)),
                fingerprint={"corpus": "x"},
            ),
        )
        row = Row(
            suite=suite, metric=metric, checkpoint=name, layer=layer, language=language, other_language=other,
            value=point_of(items), n=LINES, higher_is_better=higher,
        )  # fmt: skip
        result.rows.append(row)
        result.items[row.key] = items

    def values(mean: float, spread: float = 0.3) -> Items:
        return Items("mean", mean + spread * shared.standard_normal(LINES) + 0.02 * own.standard_normal(LINES))

    for code in OTHERS:
        for layer in ("0", "1", "2", "3", "4"):
            for pair in (("eng_Latn", code), (code, "eng_Latn")):
                add("layers", "precision_at_1", values(0.3 + retrieval * (layer == "2")), True, layer, *pair)
    for code in ("eng_Latn", *OTHERS):
        size = shared.integers(20, 90, LINES)
        bits = size * (
            2 + 0.1 * (code == lost) + 0.1 * shared.standard_normal(LINES) + 0.01 * own.standard_normal(LINES)
        )
        add("language_modelling", "bits_per_byte", Items("ratio", np.column_stack([bits, size])), False, None, code)
        add("tasks", "choice.acc", values(0.5), True, None, code)
        add("tasks", "choice.acc_norm", values(0.5), True, None, code)
    for code in OTHERS:
        for pair in (("eng_Latn", code), (code, "eng_Latn")):
            total = shared.integers(10, 60, (LINES, 8))
            add(
                "translation",
                "chrf++",
                Items("chrf", np.stack([total, total, total // 2], axis=2).reshape(LINES, 24)),
                True,
                None,
                *pair,
            )
            # The error of the identifier: judged on other lines at each step.
            judged = (own.random(LINES) < 0.95).astype(float)
            off = judged * (np.arange(LINES) % 20 == 0)
            add("translation", "off_target_rate", Items("ratio", np.column_stack([off, judged])), False, None, *pair)
        add("translation", "chrf++", values(50.0), True, None, None, code)  # a mean of the suite's own: no direction
    return {suite: result for suite, result in suites.items() if suite not in without}


def compared(
    steps: dict[str, dict], facts: dict[str, dict] | None = None, policy: Policy | None = None
) -> tuple[Comparison, Series]:
    """base and steps (label -> options of `step_results`), and their series; steps are 100, 200, ... of stage1 unless
    `facts` say else."""
    results = {"base": step_results("base")} | {
        label: step_results(label, **options) for label, options in steps.items()
    }
    checkpoints = {
        label: {"stage": "stage1", "step": 100 * (place + 1), "align_layer": 2} for place, label in enumerate(steps)
    }
    checkpoints |= {"base": {"stage": "pretrain", "step": 750}, **(facts or {})}
    comparison = compare(
        results, base="base", candidates=list(steps), checkpoints=checkpoints, corpus={"pivot": "eng_Latn"}, series=True
    )
    return comparison, make_series(
        comparison, judge(comparison, policy or default_policy().model_copy(update={"protected": ()}))
    )


def labels_of_steps(count: int) -> list[str]:
    return [f"step-{100 * (place + 1)}" for place in range(count)]


def test_first_failure_is_the_step_that_loses_a_language():
    steps = {label: {"retrieval": 0.05 * place} for place, label in enumerate(labels_of_steps(5))}
    steps["step-300"] |= {"lost": "tur_Latn"}
    steps["step-500"] |= {"lost": "tur_Latn"}
    comparison, series = compared(steps)
    assert [step.outcome for step in series.steps] == [None, "pass", "pass", "fail", "pass", "fail"]
    assert series.first_failure is not None and (series.first_failure.label, series.first_failure.step) == (
        "step-300",
        300,
    )
    assert series.sentence.startswith("The gate would first have failed at step-300 (stage1, step 300): 1 of ")
    assert "worst: bits_per_byte tur_Latn lost 0.1" in series.sentence and series.sentence.endswith(
        " After it: 1 FAIL and 1 PASS."
    )
    assert [step.title for step in series.steps] == [
        "base",
        "stage1 100",
        "stage1 200",
        "stage1 300",
        "stage1 400",
        "stage1 500",
    ]


def test_no_step_fails():
    _, series = compared({label: {} for label in labels_of_steps(3)})
    assert series.first_failure is None and series.sentence == "The gate would have failed at none of 3 steps: 3 PASS."


def test_one_step():
    _, series = compared({"step-100": {}})
    assert series.sentence == "The gate would not have failed: 1 PASS." and len(series.steps) == 2
    assert all(len(trajectory.points) == 2 for trajectory in series.trajectories)


def test_S8_trajectories_are_means_of_the_rows_paired_with_the_base():
    comparison, series = compared({label: {"retrieval": 0.1 * place} for place, label in enumerate(labels_of_steps(3))})
    assert [(each.metric, each.layer, each.higher_is_better) for each in series.trajectories] == [
        ("precision_at_1", "2", True),
        ("chrf++", None, True),
        ("off_target_rate", None, False),
        ("bits_per_byte", None, False),
        ("choice.acc", None, True),  # one accuracy a task: not also the length-normalised one
    ]
    for trajectory in series.trajectories:
        base, *points = trajectory.points
        assert base.label == "base" and base.difference is None and base.n == LINES and base.clusters == LINES // 2
        for label, point in zip(comparison.candidates, points, strict=True):
            rows = [
                row
                for row in comparison.rows
                if (row.candidate_name, row.metric, row.layer) == (label, trajectory.metric, trajectory.layer)
                and row.language is not None
            ]
            mean = mean_difference(comparison, contrasts_of(comparison, label)[-1], rows)
            assert mean is not None and (point.label, point.n, point.clusters) == (label, LINES, LINES // 2)
            assert point.value == pytest.approx(np.mean([row.candidate for row in rows]))
            assert base.value == pytest.approx(np.mean([row.base for row in rows]))
            assert point.difference == pytest.approx(point.value - base.value)
            assert (point.ci_low, point.ci_high) == (mean.estimate.ci_low, mean.estimate.ci_high)
            assert point.ci_low <= point.difference <= point.ci_high
            unit = "directions" if trajectory.suite in ("layers", "translation") else "languages"
            assert trajectory.note == f"mean of {len(rows)} {unit}"
    assert series.trajectories[0].points[-1].difference == pytest.approx(0.2, abs=0.01)


def test_S10_a_step_without_a_suite_is_a_gap_and_no_pass():
    comparison, series = compared(
        {
            "step-100": {},
            "step-200": {"without": ("language_modelling",)},
            "step-300": {"lost": "zho_Hans"},
            "step-400": {},
        }
    )
    bits = next(each for each in series.trajectories if each.metric == "bits_per_byte")
    assert [point.value is None for point in bits.points] == [False, False, True, False, False]
    assert bits.points[2].n == 0 and bits.points[2].difference is None
    assert all(point.value is not None for each in series.trajectories if each is not bits for point in each.points)
    assert [step.outcome for step in series.steps[1:]] == ["pass", "incomplete", "fail", "pass"]
    assert "Before it, step-200 could not be judged as a whole." in series.sentence


def test_S10_languages_that_one_step_lacks_are_in_no_mean():
    steps = {label: step_results(label) for label in ("base", "one", "two")}
    translation = steps["one"]["translation"]
    kept = [row for row in translation.rows if "zho_Hans" not in (row.language, row.other_language)]
    steps["one"]["translation"] = dataclasses.replace(translation, rows=kept)
    comparison = compare(steps, base="base", candidates=["one", "two"], series=True)
    series = make_series(comparison, judge(comparison, default_policy()))
    chrf = next(each for each in series.trajectories if each.metric == "chrf++")
    assert chrf.note == "mean of 4 of 6 directions"
    of_all = [
        row.base
        for row in comparison.rows
        if row.metric == "chrf++" and row.candidate_name == "two" and row.language is not None
    ]
    assert len(of_all) == 6 and chrf.points[0].value != pytest.approx(np.mean(of_all), abs=1e-6)
    assert series.steps[1].outcome == "incomplete"


def test_a_suite_that_the_base_lacks_has_no_trajectory():
    results = {
        "base": step_results("base", without=("layers", "tasks")),
        "one": step_results("one"),
        "two": step_results("two"),
    }
    comparison = compare(results, base="base", candidates=["one", "two"], series=True)
    series = make_series(comparison, judge(comparison, default_policy()))
    assert {each.suite for each in series.trajectories} == {"translation", "language_modelling"}


@pytest.mark.parametrize(
    ("layers", "shown", "told"),
    [
        ((2, 2), "2", None),
        ((1, 3), "3", "at that of two"),
        ((1, None), "1", "at that of one"),
        ((None, None), "2", None),
    ],
)
def test_one_layer_for_all_steps(layers, shown, told):
    facts = {label: {"align_layer": layer} for label, layer in zip(("one", "two"), layers, strict=True)}
    _, series = compared({"one": {"retrieval": 0.1}, "two": {"retrieval": 0.1}}, facts)
    precision = series.trajectories[0]
    assert precision.metric == "precision_at_1" and precision.layer == shown and f"layer {shown}" in precision.title
    assert (told in precision.note) if told else precision.note == "mean of 6 directions"


@pytest.mark.parametrize(
    ("facts", "titles"),
    [
        (
            {"one": {"stage": "stage1", "step": 400}, "two": {"stage": "stage2", "step": 100}},
            ["stage1 400", "stage2 100"],
        ),
        ({"one": {"step": 400}, "two": {"step": 800}}, ["step 400", "step 800"]),
        ({"one": {"stage": "stage1", "step": 400}, "two": {"stage": "stage1", "step": 400}}, ["one", "two"]),
        ({"one": {}, "two": {"stage": "stage1", "step": 3}}, ["one", "stage1 3"]),
    ],
)
def test_titles_of_steps(facts, titles):
    _, series = compared({"one": {}, "two": {}}, facts)
    assert [step.title for step in series.steps] == ["base", *titles]


@pytest.mark.parametrize(
    ("facts", "ordered"),
    [
        # The shell sorts names: step-1000 before step-200.
        (
            {"step-1000": ("stage1", 1000), "step-20": ("stage1", 20), "step-300": ("stage1", 300)},
            ["step-20", "step-300", "step-1000"],
        ),
        (
            {"b": ("stage1", 900), "a": ("stage2", 100), "c": ("stage2", 50)},
            ["b", "a", "c"],
        ),  # of several stages: as given
        ({"b": ("stage1", 200), "a": ("stage1", None), "c": ("stage1", 100)}, ["b", "a", "c"]),
        ({"b": ("stage1", 200), "a": ("stage1", 200), "c": ("stage1", 100)}, ["b", "a", "c"]),
        ({"b": (None, 200), "a": (None, 100)}, ["a", "b"]),
    ],
)
def test_order_of_steps(facts, ordered):
    checkpoints = {label: {"stage": stage, "step": step} for label, (stage, step) in facts.items()}
    assert order_steps(list(facts), checkpoints) == ordered


def test_order_of_steps_without_facts():
    assert order_steps(["b", "a"], {}) == ["b", "a"] and order_steps([], {}) == []


def test_against_the_control():
    results = {
        label: step_results(label, lost="tur_Latn" if label in ("two", "control") else None)
        for label in ("base", "one", "two", "control")
    }
    comparison = compare(results, base="base", candidates=["one", "two"], control="control", series=True)
    policy = default_policy().model_copy(update={"against": "control", "protected": ()})
    series = make_series(comparison, judge(comparison, policy))
    # Against the control nothing is lost, though bits per byte rose from the base, which the trajectory shows.
    assert series.first_failure is None
    bits = next(each for each in series.trajectories if each.metric == "bits_per_byte")
    assert bits.points[2].ci_low > 0
