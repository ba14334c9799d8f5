"""The gate's verdict, the series and the diagnosis in the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alignx_eval import wording
from alignx_eval.judgement.diagnosis import RULES
from alignx_eval.judgement.gate import STATUSES
from alignx_eval.judgement.gate import WORDS as OUTCOME_WORDS
from alignx_eval.judgement.series import Series, Trajectory
from alignx_eval.metrics import better_direction
from alignx_eval.render import figures, view

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison
    from alignx_eval.judgement.gate import CandidateVerdict, GateRow, Verdict
    from alignx_eval.judgement.report import Report


RULE_TITLES = {
    "over-alignment": "Over-alignment",
    "insufficient-alignment": "Insufficient alignment",
    "hidden-losers": "Hidden losers",
    "loss-in-english": "Loss in English",
    "price": "Price",
}
OPEN_ROWS = 200  # gated rows of a candidate that are red, missing or amber; the policy decides how many there can be
FOLDED_ROWS = 600
# Steps of a series that get curves, tables and samples: all of 30 would be 20 MB, and curves nobody can tell apart.
SERIES_DETAIL = 4


def verdict_section(verdict: Verdict, candidates: Sequence[str]) -> dict[str, Any]:
    """The gate's answer, with the rows of `candidates`."""
    several = len(verdict.candidates) > 1
    return {
        "outcome": verdict.outcome,
        "word": OUTCOME_WORDS[verdict.outcome],
        "mark": view.OUTCOME_MARKS[verdict.outcome],
        # Of several candidates only the counts: each says its own sentence below.
        "sentence": verdict.sentence.partition(". ")[0] + "."
        if several
        else verdict.sentence.removeprefix(f"{OUTCOME_WORDS[verdict.outcome]}: "),
        "rule": verdict.rule,
        "policy": verdict.policy,
        "policy_name": verdict.policy_name,
        "title": view.gate_title(verdict),
        "enforced": verdict.enforced,
        "several": several,
        "candidates": [_candidate_verdict(each) for each in verdict.candidates if each.candidate in candidates],
        "left_out": sum(each.candidate not in candidates for each in verdict.candidates),
    }


def _candidate_verdict(judged: CandidateVerdict) -> dict[str, Any]:
    levels = list(dict.fromkeys(row.level for row in judged.rows))
    opened = [row for row in judged.rows if row.status in ("red", "missing", "amber")]
    folded = [row for row in judged.rows if row.status in ("grey", "green")]
    return {
        "candidate": judged.candidate,
        "reference": judged.reference,
        "outcome": judged.outcome,
        "word": OUTCOME_WORDS[judged.outcome],
        "mark": view.OUTCOME_MARKS[judged.outcome],
        "sentence": judged.sentence.removeprefix(f"{OUTCOME_WORDS[judged.outcome]}: "),
        "counts": [
            {
                "level": level,
                "statuses": [(status, count) for status in STATUSES if (count := judged.counts(level)[status])],
            }
            for level in levels
        ],
        "opened": _gate_table(opened, OPEN_ROWS),
        "folded": _gate_table(folded, FOLDED_ROWS),
    }


def _gate_table(rows: Sequence[GateRow], limit: int) -> dict[str, Any]:
    return {
        "lines": [_gate_line(row) for row in rows[:limit]],
        "total": len(rows),
        "statuses": [(status, count) for status in STATUSES if (count := sum(row.status == status for row in rows))],
        "levels": len({row.level for row in rows[:limit]}) > 1,
        "reasons": any(row.reason for row in rows[:limit]),
    }


def _gate_line(gated: GateRow) -> dict[str, Any]:
    row = gated.row
    line: dict[str, Any] = {
        "status": gated.status,
        "level": gated.level,
        "title": gated.wanted,
        "about": "",
        "name": "protected" if gated.protected else "",
        "loss": view.gate_loss(gated),
        "interval": "",
        "mark": "",
        "tolerance": view.gate_tolerance(gated),
        "bound": view.gate_bound(gated) or "–",
        "p": wording.probability(gated.p_adjusted),
        "n": "–",
        "reason": gated.reason or "",
    }
    if row is None:
        return line
    language = view.language_name(gated.language) if gated.language else "mean"
    line |= {
        "title": view.row_title(row),
        "about": view.pair_title(row),
        "name": f"{language}, protected" if gated.protected else language,
        "n": f"{row.n} ({row.clusters})",
    }
    if gated.loss is None:
        return line
    low, high = row.ci_low, row.ci_high
    # The interval of the loss: that of the difference, turned round where a higher value is good.
    if (
        low is not None
        and high is not None
        and (gated.loss != row.difference or (gated.loss == 0 and row.higher_is_better is not False))
    ):
        low, high = -high, -low
    line["interval"] = wording.between(low, high, row.metric)
    return line | {"mark": figures.loss_mark(low, gated.loss, high, gated.tolerance, gated.status)}


def series_section(comparison: Comparison, series: Series) -> dict[str, Any]:
    """Trajectories drawn, and a table of all steps."""
    steps = series.steps[1:]
    stages = {str(comparison.checkpoints.get(step.label, {}).get("stage") or "") for step in steps}
    by_number = (
        len(stages) == 1
        and len({step.step for step in steps}) == len(steps)
        and all(step.step is not None for step in steps)
    )
    names = [step.title if index == 0 or not by_number else str(step.step) for index, step in enumerate(series.steps)]
    stage = next(iter(stages)) if by_number else ""
    axis = f"step{f' of {stage}' if stage else ''}" if by_number else "checkpoint"
    failure = None
    if series.first_failure is not None:
        place = series.steps.index(series.first_failure)
        failure = (place, f"first failure: {names[place]}")
    drawn = [
        {
            "title": trajectory.title,
            "note": trajectory.note,
            "direction": better_direction(trajectory.higher_is_better),
            "size": wording.sample_size(
                [(point.n, point.clusters) for point in trajectory.points if point.value is not None]
            ),
            "figure": _trajectory_figure(
                trajectory, number, series, names, f"{axis}, in order, evenly spaced", failure
            ),
        }
        for number, trajectory in enumerate(series.trajectories)
    ]
    outcomes = {step.outcome for step in steps}
    lines = [
        {
            "label": step.label,
            "title": step.title if step.title != step.label else "",
            "outcome": step.outcome,
            "first": step == series.first_failure,
            "cells": [_point_text(trajectory, index) for trajectory in series.trajectories],
        }
        for index, step in enumerate(series.steps)
    ]
    return {
        "sentence": series.sentence,
        "failed": series.first_failure is not None,
        "figures": drawn,
        "lines": lines,
        "outcomes": [(outcome, word) for outcome, word in OUTCOME_WORDS.items() if outcome in outcomes],
    }


def _trajectory_figure(
    trajectory: Trajectory,
    number: int,
    series: Series,
    names: Sequence[str],
    axis: str,
    failure: tuple[int, str] | None,
) -> str:
    base = trajectory.points[0].value or 0.0
    intervals = [
        (base + point.ci_low, base + point.ci_high) if point.ci_low is not None and point.ci_high is not None else None
        for point in trajectory.points
    ]
    tips = []
    for index, step in enumerate(series.steps):
        outcome = f"; gate: {OUTCOME_WORDS[step.outcome]}" if step.outcome is not None else ""
        value, change = _point_text(trajectory, index)
        tips.append(f"{step.label}: {value}{f', {change} against the base' if change else ''}{outcome}")
    return figures.trajectory_figure(
        f"trajectory-{number}",
        title=f"{trajectory.title} by step",
        description=f"{trajectory.note}. {series.sentence}",
        axis=axis,
        steps=names,
        values=[point.value for point in trajectory.points],
        intervals=intervals,
        outcomes=[step.outcome for step in series.steps],
        tips=tips,
        failure=failure,
    )


def _point_text(trajectory: Trajectory, index: int) -> tuple[str, str]:
    """Value, and difference with interval, of a step."""
    point = trajectory.points[index]
    change = ""
    if point.difference is not None:
        ends = wording.between(point.ci_low, point.ci_high, trajectory.metric)
        change = f"{wording.difference(point.difference, trajectory.metric)} {ends}".rstrip()
    return wording.number(point.value, trajectory.metric), change


def diagnoses(report: Report) -> list[dict[str, Any]]:
    """The answers of all rules, by candidate."""
    return [
        {
            "candidate": candidate,
            "counts": ", ".join(
                f"{count} {word}"
                for status, word in view.DIAGNOSIS_WORDS.items()
                if (count := sum((each.candidate, each.status) == (candidate, status) for each in report.diagnoses))
            ),
            "answers": [
                {
                    "title": RULE_TITLES.get(diagnosis.rule, diagnosis.rule),
                    "definition": RULES[diagnosis.rule],
                    "status": diagnosis.status,
                    "brief": f"Against {diagnosis.reference}: {view.brief(diagnosis)}.",
                    "sentence": diagnosis.sentence,
                    "evidence": [evidence.text for evidence in diagnosis.evidence],
                    "more": diagnosis.more,
                }
                for diagnosis in report.diagnoses
                if diagnosis.candidate == candidate
            ],
        }
        for candidate in report.comparison.candidates
    ]
