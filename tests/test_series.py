"""Steps of one training: their order, their trajectories, and the first step at which the gate would have failed."""

from __future__ import annotations

import pytest
from render_fixture import checkpoint_facts, corpus_facts, synthetic_results

from alignx_eval.comparison import Comparison, compare
from alignx_eval.findings import mean_difference
from alignx_eval.gate import judge
from alignx_eval.policy import default_policy
from alignx_eval.render import html, markdown
from alignx_eval.series import make_series, order_steps

LINES = 120


def training(*names: str) -> Comparison:
    """Base and one step for each of `names` (checkpoints of the fixture), called step-100, step-200, ..."""
    labels = [f"step-{100 * (number + 1)}" for number in range(len(names))]
    results = {"base": synthetic_results("base", lines=LINES)}
    facts = {"base": checkpoint_facts("base")}
    for label, name in zip(labels, names, strict=True):
        suites = synthetic_results(name, lines=LINES)
        for result in suites.values():
            result.rows = [
                type(row)(**{**{field: getattr(row, field) for field in row.__slots__}, "checkpoint": label}) for row in result.rows
            ]
        results[label] = suites
        facts[label] = {"name": label, "stage": "align", "step": int(label[5:]), "align_layer": 3}
    return compare(results, base="base", candidates=labels, checkpoints=facts, corpus=corpus_facts(lines=LINES), series=True)


def test_the_first_step_that_fails_is_named():
    comparison = training("drifted", "drifted", "damaged", "drifted")
    series = make_series(comparison, judge(comparison, default_policy()))
    assert series.first_failure is not None and series.first_failure.label == "step-300" and series.first_failure.step == 300
    assert "would first have failed at step-300 (align, step 300)" in series.sentence and "After it" in series.sentence
    assert [step.label for step in series.steps] == ["base", "step-100", "step-200", "step-300", "step-400"]
    assert [step.outcome == "fail" for step in series.steps] == [False, False, False, True, False]


def test_no_step_fails():
    comparison = training("drifted", "alignx")
    series = make_series(comparison, judge(comparison, default_policy()))
    assert series.first_failure is None and "at none of 2 steps" in series.sentence


def test_a_trajectory_is_the_mean_with_the_paired_interval_to_the_base():
    comparison = training("drifted", "damaged")
    series = make_series(comparison, judge(comparison, default_policy()))
    titles = {trajectory.metric: trajectory for trajectory in series.trajectories}
    assert {"precision_at_1", "bits_per_byte", "off_target_rate"} <= set(titles)
    trajectory = titles["bits_per_byte"]
    assert [point.label for point in trajectory.points] == ["base", "step-100", "step-200"]
    rows = [
        row for row in comparison.rows if row.metric == "bits_per_byte" and row.candidate_name == "step-200" and row.language is not None
    ]
    expected = mean_difference(comparison, rows)
    point = trajectory.points[-1]
    assert point.value == pytest.approx(expected.candidate) and point.difference == pytest.approx(expected.estimate.value)
    assert (point.ci_low, point.ci_high, point.n) == (expected.estimate.ci_low, expected.estimate.ci_high, LINES)


def test_every_report_says_it():
    comparison = training("drifted", "damaged")
    verdict = judge(comparison, default_policy())
    for text in (html.render(comparison, verdict), markdown.render(comparison, verdict)):
        assert "would first have failed at step-200" in text.replace("\\", "")


def test_a_missing_suite_leaves_a_gap_and_no_error():
    comparison = training("drifted", "drifted")
    results = {label: dict(suites) for label, suites in comparison.results.items()}
    del results["step-100"]["translation"]
    again = compare(
        results, base="base", candidates=comparison.candidates, checkpoints=comparison.checkpoints, corpus=comparison.corpus, series=True
    )
    verdict = judge(again, default_policy())
    series = make_series(again, verdict)
    assert series.steps[1].outcome == "incomplete" and "translation" in html.render(again, verdict)


def test_order_of_steps():
    names = ["step-1000", "step-20", "step-300"]
    facts = {name: {"stage": "align", "step": int(name[5:])} for name in names}
    assert order_steps(names, facts) == ["step-20", "step-300", "step-1000"]
    facts["step-20"] = {"stage": "tune", "step": 20}  # the second stage counts from 0 again
    assert order_steps(names, facts) == names
    assert order_steps(names, {}) == names
